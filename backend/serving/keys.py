"""Keys: short-lived ones that stand for the server's own, and the wait that wrong ones cost."""

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache

from backend.allowance import TokenBucket, WaitingLine
from backend.timing import SystemTime, Time
from backend.wires.errors import CloseCode, ConnectionEnd, WireError

logger = logging.getLogger(__name__)

PREFIX = "ek_"
MAX_SECRETS = 1000
"""Alive at once; of more the oldest goes."""
GUESSES_PER_SECOND = 0.5
FREE_GUESSES = 10.0
"""Which somebody may need who types a key, or opens a page that remembers the last one."""
MAX_WAITING = 32
"""From one address: further ones are refused."""
MAX_ADDRESSES = 10_000
"""That are remembered, those that were heard of last."""


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


class Guesses:
    """Keeps count of wrong keys by address. Belongs to one event loop."""

    def __init__(self, time: Time | None = None) -> None:
        self._time = time or SystemTime()
        self._from: LRUCache[str, _GuessesFrom] = LRUCache(MAX_ADDRESSES)

    def count(self, address: str) -> None:
        """A wrong key came from there."""
        if (guesses := self._from.get(address)) is None:
            logger.warning("wrong access keys come from %s", address)
            guesses = self._from[address] = _GuessesFrom(self._time)
        guesses.bucket.charge(1)

    async def wait(self, address: str) -> None:
        """Wait before a key from there is looked at, be it right or wrong, after those before it.

        Raises:
            ConnectionEnd: too many wait already.
        """
        if (guesses := self._from.get(address)) is None or guesses.bucket.charge(0) == 0:
            return
        if guesses.line.is_full:
            error = WireError(
                "too many wrong access keys come from your address: try again in a minute",
                "too_many_requests",
            )
            raise ConnectionEnd(error, CloseCode.POLICY)
        async with guesses.line.turn():
            while (seconds := guesses.bucket.charge(0)) > 0:
                await self._time.sleep(seconds)


class _GuessesFrom:
    """Those of one address."""

    def __init__(self, time: Time) -> None:
        self.bucket = TokenBucket(GUESSES_PER_SECOND, FREE_GUESSES, time)
        self.line = WaitingLine(MAX_WAITING)
