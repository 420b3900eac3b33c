"""Keys that live for minutes: a browser may hold one, and a server's own key never leaves it."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "ek_"
MAX_SECRETS = 1000
"""Alive at once; of more the oldest goes."""


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A key, and what its holder gets."""

    expires_at: int
    """Seconds since 1970."""
    session: Mapping[str, Any]
    """Settings with which the holder's conversations begin."""
    value: str = field(default_factory=lambda: PREFIX + secrets.token_urlsafe(24))


class ClientSecrets:
    """Those of one server, as long as it runs."""

    def __init__(self) -> None:
        self._secrets: dict[str, ClientSecret] = {}

    def create(self, seconds: int, session: Mapping[str, Any]) -> ClientSecret:
        """Another, which lives for so long."""
        now = time.time()
        secret = ClientSecret(round(now) + seconds, session)
        alive = [kept for kept in self._secrets.values() if kept.expires_at > now]
        self._secrets = {kept.value: kept for kept in (*alive[-MAX_SECRETS + 1 :], secret)}
        return secret

    def find(self, value: str) -> ClientSecret | None:
        """What somebody holds; None where it is none, or is one no more."""
        # They cannot be guessed letter by letter: what differs is their hash.
        secret = self._secrets.get(value) if value.startswith(PREFIX) else None
        return secret if secret is not None and secret.expires_at > time.time() else None
