"""A served script whose every event is kept, and the recorded voice that clients send to it."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import soxr
from openai.types.live import ServerEvent as LiveServerEvent
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.audio import float_to_pcm16, read_audio
from backend.config import SAMPLE_RATE_HZ, SPEECH_RATE_HZ
from backend.protocol import Emotion
from tests.conftest import SAMPLES
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving

WireEvent = dict[str, Any]
Modality = Literal["text", "audio"]

WAIT_SECONDS = 60.0
"""How long a client may wait for what it expects."""

FIRST_REPLY = ScriptedReply("Coming up: large latte.", Emotion.HAPPY)
SECOND_REPLY = ScriptedReply("You said seven.", Emotion.NORMAL)
LONG_REPLY = ScriptedReply("This goes on and on and on and on, until it is stopped. " * 1000)
"""Takes longer than any machine needs to stop it."""

HEARD = (" large", " latte")
"""One after the other is heard, with each 0.4 s of sound."""

VOICE = "espeak:en-us"
"""Works offline, so that no word of a test leaves the machine."""

TYPED = "And a seven, please."

_REALTIME_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
_LIVE_EVENT: TypeAdapter[Any] = TypeAdapter(LiveServerEvent)


@dataclass(slots=True)
class Wire:
    """A server that follows a script, and every event between it and its clients."""

    engine: ScriptedEngine
    address: str = ""
    from_clients: list[WireEvent] = field(default_factory=list)
    to_clients: list[WireEvent] = field(default_factory=list)

    def follow(self, *replies: ScriptedReply, seconds_per_word: float = 0.0) -> None:
        """From here on, a new conversation goes by these replies."""
        self.engine.replies = replies
        self.engine.num_replies = len(replies)
        self.engine.seconds_per_word = seconds_per_word

    def forget(self) -> None:
        """What was overheard so far."""
        self.from_clients.clear()
        self.to_clients.clear()

    def sent(self, event_type: str) -> list[WireEvent]:
        """The events of one type that the clients sent."""
        return [event for event in self.from_clients if event["type"] == event_type]

    def told(self, event_type: str) -> list[WireEvent]:
        """The events of one type that the clients were sent."""
        return [event for event in self.to_clients if event["type"] == event_type]

    async def until_told(self, event_type: str) -> None:
        """Wait for an event of a type to be sent."""
        async with asyncio.timeout(WAIT_SECONDS):
            # The server tells in a thread of its own.
            while not self.told(event_type):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def require_pure_ga(self) -> None:
        """Every event is one of OpenAI's Realtime API, in its shape, and none is an error."""
        for event in self.to_clients:
            _REALTIME_EVENT.validate_python(event)
        assert self.told("error") == []

    def require_pure_live(self) -> None:
        """The same of its Live API."""
        for event in self.to_clients:
            _LIVE_EVENT.validate_python(event)
        assert self.told("error") == []

    def transcript(self) -> str:
        """What a Live client was told that was said."""
        return "".join(event["delta"] for event in self.told("session.output_transcript.delta"))

    def tap(self, app: ASGIApp) -> ASGIApp:
        """The application, overheard."""

        async def overheard(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_and_keep() -> Message:
                message = await receive()
                self.from_clients.extend(_events(message))
                return message

            async def keep_and_send(message: Message) -> None:
                self.to_clients.extend(_events(message))
                await send(message)

            if scope["type"] == "websocket":
                await app(scope, receive_and_keep, keep_and_send)
            else:
                await app(scope, receive, send)

        return overheard


def _events(message: Message) -> Iterator[WireEvent]:
    if text := message.get("text"):
        yield json.loads(text)


@contextmanager
def overheard_server() -> Iterator[Wire]:
    """A server while the block runs."""
    wire = Wire(ScriptedEngine([FIRST_REPLY], words=HEARD))
    with serving(wire.engine, wire.tap) as wire.address:
        yield wire


def seconds_of(pcm: bytes) -> float:
    """How long spoken PCM16 sounds."""
    return len(pcm) / 2 / SPEECH_RATE_HZ


def spoken(rate_hz: int = SPEECH_RATE_HZ) -> bytes:
    """A recorded order of 2.8 s and 1.2 s of silence, as PCM16."""
    heard = read_audio(SAMPLES / "order_large_dark_roast_americano.ogg")
    words = heard[round(0.8 * SAMPLE_RATE_HZ) : round(3.6 * SAMPLE_RATE_HZ)]
    clip = np.concatenate([words, np.zeros(round(1.2 * SAMPLE_RATE_HZ), np.float32)])
    return float_to_pcm16(soxr.resample(clip, SAMPLE_RATE_HZ, rate_hz))
