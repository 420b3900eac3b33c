"""What a conversation needs of an engine, and how that follows its settings."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from backend.allowance import TokenBucket
from backend.config import CHUNK_SECONDS, SessionSettings
from backend.conversation.settings import ConversationSettings
from backend.engine.session import Past
from backend.events import Event
from backend.timing import Time
from backend.trace import Trace

CHANGES_PER_SECOND = 2.5
CHANGE_BURST = 40.0
"""So many come at once where somebody turns the eagerness up."""
PROMPT_COST = 10.0
"""In changes that leave the prompt as it is."""


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


class EngineSettings:
    """Has the engine follow its client's settings.

    With another prompt, all that was heard and said is taken in anew, which takes time from all
    conversations. So changes that come too fast wait, and of those that wait the newest counts.

    Args:
        settings: with which the session began.
        time: by which too fast is told.
    """

    def __init__(self, session: ModelSession, settings: ConversationSettings, time: Time) -> None:
        self._session = session
        self._followed = self._wanted = settings
        self._time = time
        self._allowed = TokenBucket(CHANGES_PER_SECOND, CHANGE_BURST, time)
        self._fell_behind = asyncio.Event()

    @property
    def is_behind(self) -> bool:
        """Whether the engine has still to follow what is wanted."""
        return self._wanted.for_engine() != self._followed.for_engine()

    async def want(self, settings: ConversationSettings) -> None:
        """Have the engine follow `settings`: at once, or in `catch_up` where that is too soon.

        Raises:
            SettingsError: they cannot be; nothing has changed.
        """
        if not self.is_behind and self._allowed.take_now(self._cost(settings)):
            await self._follow(settings)
        self._wanted = settings
        if self.is_behind:
            self._fell_behind.set()

    async def catch_up(self) -> bool:
        """Wait until the engine falls behind, then have it follow the newest once that is fair.

        Returns whether there was anything left to follow by then.

        Raises:
            SettingsError: it cannot be; `take_back` it.
        """
        await self._fell_behind.wait()
        owed_seconds = self._allowed.charge(self._cost(self._wanted))
        await self._time.sleep(max(CHUNK_SECONDS, owed_seconds))
        self._fell_behind.clear()
        was_behind = self.is_behind
        await self._follow(self._wanted)
        return was_behind

    def take_back(self) -> ConversationSettings:
        """What is in force instead of what cannot be, unless something newer is wanted already."""
        if not self._fell_behind.is_set():
            self._wanted = self._wanted.with_engine_part(self._followed)
        return self._wanted

    async def _follow(self, settings: ConversationSettings) -> None:
        if settings.for_engine() != self._followed.for_engine():
            await self._session.change_settings(settings.for_engine())
        self._followed = settings

    def _cost(self, settings: ConversationSettings) -> float:
        """In changes."""
        if settings.for_engine() == self._followed.for_engine():
            return 0.0
        has_other_prompt = settings.instructions != self._followed.instructions
        return PROMPT_COST if has_other_prompt else 1.0
