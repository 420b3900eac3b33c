"""Sockets without a network, and time that passes when a test says so."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import numpy as np

from backend.admission import Admission
from backend.audio import Samples, float_to_pcm16
from backend.config import SAMPLE_RATE_HZ
from backend.conversation.conversation import ConversationOptions
from backend.conversation.settings import ConversationSettings
from backend.conversation.voice_activity import VOICE_DETECTION
from backend.journal import Journal
from backend.speech import Voices
from backend.wires.connection import Connection, SocketLimits
from backend.wires.conversations import Conversations
from backend.wires.errors import ConnectionEnd, first_end
from backend.wires.realtime.session import Dialect
from backend.wires.realtime.wire import RealtimeWire
from backend.wires.wire import FirstMessage, Offer, Request
from tests.scripted import ScriptedEngine

WireEvent = dict[str, Any]

WAIT_SECONDS = 60.0
SETTLING_TURNS = 50
EXPECTED = FirstMessage("session.update or session.resume")


async def settle() -> None:
    """Let everything happen that waits for nothing but its turn, or for voices to be judged."""
    num_quiet = 0
    while num_quiet < SETTLING_TURNS:
        await asyncio.sleep(0)
        num_quiet += 1
        if any(task.get_name() == VOICE_DETECTION for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
            num_quiet = 0


class SteppedTime:
    """Stands still but for `pass_by`."""

    def __init__(self) -> None:
        self.work_seconds = 0.0
        """What this thread is to have worked."""
        self._now = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self._now

    def worked(self) -> float:
        return self.work_seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = (self._now + seconds, asyncio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    async def pass_by(self, seconds: float) -> None:
        """Wake every sleeper at its time, in order."""
        end = self._now + seconds
        await settle()
        while due := [at for at, event in self._sleepers if at <= end and not event.is_set()]:
            self._now = max(self._now, min(due))
            for at, event in self._sleepers:
                if at <= self._now:
                    event.set()
            await settle()
        self._now = end
        await settle()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It passes by itself while the block runs, faster than on a clock."""

        async def run() -> None:
            while True:
                await self.pass_by(1.0)

        running = asyncio.create_task(run())
        try:
            yield
        finally:
            running.cancel()


class Wire:
    """What a client has sent and the server has not read yet."""

    def __init__(self) -> None:
        self.has_left = False
        self._messages: asyncio.Queue[str | bytes | None] = asyncio.Queue()

    def put(self, message: str | bytes | None) -> None:
        self._messages.put_nowait(message)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        if (message := await self._messages.get()) is None:
            raise StopAsyncIteration
        return message


class Visitor:
    """A client with one socket."""

    def __init__(
        self, conversations: Conversations, request: Request, limits: SocketLimits | None = None
    ) -> None:
        self.received: list[WireEvent] = []
        self.end: ConnectionEnd | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self._news = asyncio.Event()
        self._wire = Wire()
        self._num_seen = 0
        connection = Connection(conversations, request, self._wire, self._take, limits)
        self.serving = asyncio.create_task(self._serve(connection))

    def send(self, event_type: str, **fields: Any) -> None:
        self.send_text(json.dumps({"type": event_type, **fields}))

    def send_text(self, message: str | bytes) -> None:
        self._wire.put(message)

    def append(self, audio: Samples) -> None:
        pcm = float_to_pcm16(np.asarray(audio, np.float32))
        self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    async def line(self) -> WireEvent:
        """The next message."""
        async with asyncio.timeout(WAIT_SECONDS):
            while self._num_seen == len(self.received):
                assert self.end is None, f"the server closed the socket: {self.end}"
                self._news.clear()
                await self._news.wait()
        self._num_seen += 1
        return self.received[self._num_seen - 1]

    async def until(self, *event_types: str) -> WireEvent:
        """The next event of one of some types; those before it are passed over."""
        async with asyncio.timeout(WAIT_SECONDS):
            while (event := await self.line())["type"] not in event_types:
                pass
        return event

    async def error_code(self) -> str:
        code: str = (await self.until("error"))["error"]["code"]
        return code

    async def closed(self) -> tuple[int, str]:
        """How the server closes the socket."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self.serving
        assert self.end is not None, "the server has not closed the socket"
        return int(self.end.close_code), self.end.reason

    async def drop(self) -> None:
        """The socket is lost."""
        self._wire.put(None)
        await self.serving

    async def leave(self) -> None:
        """The client closes the socket."""
        self._wire.has_left = True
        await self.drop()

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.received]

    @property
    def numbers(self) -> list[int]:
        return [e["server_event_seq"] for e in self.received if "server_event_seq" in e]

    async def _take(self, text: str) -> None:
        await self.reads.wait()
        self.received.append(json.loads(text))
        self._news.set()

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        except* ConnectionEnd as ends:
            self.end = first_end(ends)
            if self.end.error is not None:
                self.received.append({"type": "error", "error": {"code": self.end.error.code}})
        finally:
            self._news.set()


def offer_of(
    engine: ScriptedEngine, voices: Voices | None = None, idle_seconds: float = 0.0
) -> Offer:
    """What a server has."""
    checkpoint = engine.checkpoint
    return Offer(
        checkpoint.name,
        checkpoint.system_prompt,
        checkpoint.sampling,
        engine.max_positions,
        voices or Voices(),
        idle_seconds,
        may_record=True,
        hears_words=checkpoint.word_head is not None,
    )


def request_of(
    engine: ScriptedEngine,
    dialect: Dialect = Dialect.DUPLEX,
    first_message: FirstMessage | None = None,
    voices: Voices | None = None,
    idle_seconds: float = 0.0,
    recording_title: str | None = None,
) -> Request:
    """What a client asks for that sends 16 kHz."""
    offer = offer_of(engine, voices, idle_seconds)
    options = ConversationOptions(
        offer.voices, dialect is Dialect.DUPLEX, idle_seconds, recording_title
    )
    defaults = ConversationSettings(offer.system_prompt, offer.sampling, SAMPLE_RATE_HZ)
    return Request(RealtimeWire(dialect, offer), options, defaults, first_message)


class House:
    """A server's conversations, and the visitors that talk there."""

    def __init__(
        self,
        engine: ScriptedEngine,
        idle_seconds: float = 0.0,
        journal: Journal | None = None,
        voices: Voices | None = None,
    ) -> None:
        self.engine = engine
        self.time = SteppedTime()
        self.admission = Admission(engine.config.num_slots, self.time)
        self.conversations = Conversations(engine, self.admission, self.time, journal=journal)
        self._idle_seconds = idle_seconds
        self._voices = voices or Voices()
        self._visitors: list[Visitor] = []

    def visit(
        self,
        dialect: Dialect = Dialect.DUPLEX,
        first_message: FirstMessage | None = None,
        limits: SocketLimits | None = None,
    ) -> Visitor:
        request = request_of(
            self.engine,
            dialect,
            first_message,
            voices=self._voices,
            idle_seconds=self._idle_seconds,
        )
        return self.admit(request, limits)

    def admit(self, request: Request, limits: SocketLimits | None = None) -> Visitor:
        """Somebody comes with a request of their own."""
        visitor = Visitor(self.conversations, request, limits)
        self._visitors.append(visitor)
        return visitor

    async def resume(self, created: WireEvent, num_received: int) -> Visitor:
        """A new socket that asks for a conversation by what its `session.created` said."""
        visitor = self.visit(first_message=EXPECTED)
        visitor.send(
            "session.resume",
            session_id=created["session"]["id"],
            resume_token=created["resume_token"],
            last_received_server_event_seq=num_received,
        )
        return visitor

    def forget(self, visitor: Visitor) -> None:
        """Keep nothing of somebody who has gone."""
        assert visitor.serving.done(), "the visitor is still there"
        # An exception remembers where it was raised, and with that the socket.
        visitor.end = None
        self._visitors.remove(visitor)

    async def empty(self) -> None:
        """Everybody leaves."""
        async with self.time.running():
            for visitor in self._visitors:
                if not visitor.serving.done():
                    await visitor.leave()
        await self.time.pass_by(100)
        self._visitors.clear()


@asynccontextmanager
async def house(
    engine: ScriptedEngine, idle_seconds: float = 0.0, journal: Journal | None = None
) -> AsyncIterator[House]:
    """A house while the block runs."""
    opened = House(engine, idle_seconds, journal)
    try:
        yield opened
    finally:
        await opened.empty()
