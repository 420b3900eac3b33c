"""What a conversation needs of an engine."""

from collections.abc import AsyncIterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from backend.config import SessionSettings
from backend.engine.session import Past
from backend.events import Event
from backend.trace import Trace


class ModelSession(Protocol):
    """What a conversation needs of an engine's session."""

    async def feed(self, chunk: npt.NDArray[np.float32]) -> int:
        """Hand over the next chunk; waits while the model is too far behind."""

    def interrupt(self, turn: int) -> None:
        """Stop the reply with this number, from 0, if it is in progress."""

    def request_reply(self, since_chunk: int | None = None) -> None:
        """Have the next chunk that is fed answered, if none since that chunk is."""

    async def change_settings(self, settings: SessionSettings) -> None:
        """Follow other settings from now on.

        Raises:
            SettingsError: they cannot be; nothing has changed.
        """

    def events(self) -> AsyncIterator[Event]:
        """What happens, as it happens."""

    async def close(self) -> None:
        """Free the slot at once."""


class SessionOpener(Protocol):
    """What a conversation needs of an engine."""

    @property
    def max_positions(self) -> int:
        """Positions of one conversation's context."""

    async def open_session(
        self,
        settings: SessionSettings | None = None,
        trace: Trace | None = None,
        past: Past | None = None,
    ) -> ModelSession:
        """Start a conversation, or go on with one that another engine had.

        Args:
            settings: with which it begins or goes on.
            trace: is told of all that happens in it.
            past: what it was so far; None begins one.

        Raises:
            SettingsError: the settings cannot be, whether or not there is a slot.
            SessionLimitError: every slot is taken.
        """
