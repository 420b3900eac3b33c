"""What the engine goes by: what the client asks for, but not faster than is fair to others."""

import asyncio

from backend.allowance import TokenBucket
from backend.config import CHUNK_SECONDS
from backend.conversation.model_session import ModelSession
from backend.conversation.settings import ConversationSettings
from backend.timing import Time

CHANGES_PER_SECOND = 2.5
CHANGE_BURST = 40.0
"""So many come at once where somebody turns the eagerness up."""
PROMPT_COST = 10.0
"""In changes that leave the prompt as it is."""


class EngineSettings:
    """Has the engine follow its client's settings.

    With another prompt, all that was heard and said is taken in anew, which takes time from all
    conversations. So changes that come too fast wait, and of those that wait the newest counts.

    Args:
        session: of the engine.
        settings: with which it began.
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
