"""A conversation without a socket: what a client sends goes in, what it is told comes out."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np

from backend.audio import Samples, float_to_pcm16
from backend.config import SAMPLE_RATE_HZ
from backend.conversation.conversation import Conversation
from backend.errors import AudioInteractionError
from backend.speech import Voices
from backend.wires.conversations import Attachment, Line
from backend.wires.errors import as_wire_error
from backend.wires.realtime.session import Dialect
from tests.scripted import ScriptedEngine
from tests.sockets import request_of, settle

WireEvent = dict[str, Any]

WAIT_SECONDS = 60.0
QUIET_TURNS = 10
BLOCK_SAMPLES = SAMPLE_RATE_HZ // 20


class Talk:
    """One client's side of a conversation."""

    def __init__(self, attachment: Attachment) -> None:
        self.conversation = attachment.conversation
        self.told: list[WireEvent] = []
        self._attachment = attachment
        self._outbox = attachment.line.outbox
        self._events = self._outbox.after(0)

    async def send(self, event_type: str, **fields: Any) -> None:
        """Have an event obeyed.

        Raises:
            WireError: it cannot be.
        """
        message = self._attachment.line.wire.read(json.dumps({"type": event_type, **fields}))
        try:
            await self._attachment.obey(message)
        except AudioInteractionError as error:
            raise as_wire_error(error) from error

    async def set(self, **session: Any) -> WireEvent:
        """Change the configuration; returns what is in force then."""
        await self.send("session.update", session=session)
        updated: WireEvent = (await self.until("session.updated"))[-1]["session"]
        return updated

    async def hear(self, audio: Samples) -> None:
        """Send audio at 16 kHz in blocks of 50 ms, as a microphone does, but at once."""
        for start in range(0, len(audio), BLOCK_SAMPLES):
            block = float_to_pcm16(audio[start : start + BLOCK_SAMPLES].astype(np.float32))
            await self.send("input_audio_buffer.append", audio=base64.b64encode(block).decode())
            # What the audio leads to happens before more of it comes.
            await asyncio.sleep(0.001)

    async def until(self, event_type: str, count: int = 1) -> list[WireEvent]:
        """What is told from now on, up to the event of this type that comes as `count`-th."""
        events: list[WireEvent] = []
        while sum(event["type"] == event_type for event in events) < count:
            numbered = await asyncio.wait_for(anext(self._events), WAIT_SECONDS)
            events.append(json.loads(numbered.text))
            self.told.append(events[-1])
        return events

    async def rest(self) -> list[WireEvent]:
        """What else is told, once nothing more comes."""
        events: list[WireEvent] = []
        outbox = self._outbox
        num_quiet = 0
        while num_quiet < QUIET_TURNS:
            await settle()
            # A voice or the speech detector may be at work in a thread.
            await asyncio.sleep(0.005)
            num_quiet = 0 if len(self.told) < outbox.last_number else num_quiet + 1
            while len(self.told) < outbox.last_number:
                events.append(json.loads((await anext(self._events)).text))
                self.told.append(events[-1])
        return events


@asynccontextmanager
async def talking(
    engine: ScriptedEngine, voices: Voices | None = None, dialect: Dialect = Dialect.DUPLEX
) -> AsyncIterator[Talk]:
    """A conversation that goes on while the block runs."""
    request = request_of(engine, dialect, voices=voices)
    line = Line(request.wire)
    conversation = await Conversation.open(engine, request.defaults, request.options, line.tell)
    going_on = asyncio.create_task(conversation.run())
    try:
        talk = Talk(Attachment(conversation, line))
        await talk.until("session.created")
        yield talk
        assert not going_on.done() or going_on.exception() is None
    finally:
        going_on.cancel()
        with suppress(asyncio.CancelledError):
            await going_on
        await conversation.close()


def types(events: list[WireEvent]) -> list[str]:
    """Their types, in order."""
    return [event["type"] for event in events]


def only(events: list[WireEvent], *event_types: str) -> list[WireEvent]:
    """Those of certain types."""
    return [event for event in events if event["type"] in event_types]
