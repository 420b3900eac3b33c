"""A conversation that is run by hand: no socket, no waiting, and what happens is collected.

Its time is whatever clock it is given, so that an hour of talk takes as long as the model does.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np

from backend.audio import Samples, float_to_pcm16
from backend.conversation.commands import Command, HearAudio
from backend.conversation.conversation import Conversation, ConversationOptions
from backend.conversation.events import ConversationEvent, ConversationFailed
from backend.conversation.model_session import SessionOpener
from backend.conversation.settings import ConversationSettings
from backend.errors import SessionFailedError
from backend.recordings.recorder import Recorder
from backend.timing import Time


class ConversationRun:
    """One conversation while it is run.

    Everything that a command leads to has happened when `obey` returns: chunks are decided, and
    replies generated and said.
    """

    def __init__(self) -> None:
        self.events: list[ConversationEvent] = []
        """All that has happened, in order."""
        self.conversation: Conversation
        self._news = asyncio.Event()

    def tell(self, event: ConversationEvent) -> None:
        """Something happened."""
        self.events.append(event)
        self._news.set()

    async def obey(self, command: Command) -> list[ConversationEvent]:
        """Do what a client asks; returns what has come of it.

        Raises:
            AudioInteractionError: it cannot be done.
            SessionFailedError: the conversation cannot go on.
        """
        num_before = len(self.events)
        await self.conversation.obey(command)
        while not self.conversation.is_settled:
            self._news.clear()
            await self._news.wait()
            for event in self.events[num_before:]:
                if isinstance(event, ConversationFailed):
                    raise SessionFailedError(event.message)
        return self.events[num_before:]

    async def hear(self, samples: Samples) -> list[ConversationEvent]:
        """Send audio `[n]` at the rate of the settings; returns what has come of it.

        Raises:
            SessionFailedError: the conversation cannot go on.
        """
        return await self.obey(HearAudio(float_to_pcm16(np.asarray(samples, np.float32))))


@asynccontextmanager
async def running(
    engine: SessionOpener,
    settings: ConversationSettings,
    options: ConversationOptions | None = None,
    time: Time | None = None,
    recorder: Recorder | None = None,
) -> AsyncIterator[ConversationRun]:
    """A conversation that goes on while the block runs.

    Args:
        time: its clock; None for the machine's.
        recorder: writes down what happens in it.

    Raises:
        SessionLimitError: the engine has no slot.
        SettingsError: the settings cannot be.
    """
    run = ConversationRun()
    run.conversation = await Conversation.open(
        engine, settings, options or ConversationOptions(), run.tell, time, recorder=recorder
    )
    going_on = asyncio.create_task(run.conversation.run())
    try:
        yield run
    finally:
        going_on.cancel()
        with suppress(asyncio.CancelledError):
            await going_on
        await run.conversation.close()
