"""Bad input: a named error to that client, and nobody else is any later or any poorer for it."""

import asyncio
import base64
import gc
import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ
from backend.conversation.conversation import Conversation
from backend.wires.connection import Connection
from backend.wires.conversations import Attachment
from backend.wires.errors import CloseCode
from backend.wires.outbox import Outbox
from backend.wires.realtime.session import Dialect
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving, wait_until_free
from tests.sockets import WAIT_SECONDS, House, Visitor, house, settle

REPLY = ScriptedReply("One moment please.")
CHUNK = np.zeros(CHUNK_SAMPLES, np.float32)
LONGEST_MESSAGE_CHARACTERS = 4 * 1024 * 1024
OURS = (Attachment, Connection, Conversation, Outbox)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def num_left() -> int:
    """What is in memory of sockets and conversations."""
    gc.collect()
    return sum(type(thing) in OURS for thing in gc.get_objects())


class Neighbour:
    """Talks all the while, and notes how much others make it wait.

    Time is that of this thread's work alone: a busy machine makes nobody late here.
    """

    def __init__(self, visitor: Visitor) -> None:
        self.longest_wait_seconds = 0.0
        self.has_been_heard = asyncio.Event()
        self._visitor = visitor

    async def talk(self) -> None:
        while True:
            start = time.thread_time()
            self._visitor.append(CHUNK)
            await self._visitor.until("response.listen")
            self.has_been_heard.set()
            waited = time.thread_time() - start
            self.longest_wait_seconds = max(self.longest_wait_seconds, waited)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def neighbourhood(engine: ScriptedEngine) -> AsyncIterator[House]:
    """A house with somebody in it who must not notice what the block does."""
    async with house(engine) as home:
        visitor = home.visit()
        await visitor.until("session.created")
        neighbour, left_before = Neighbour(visitor), num_left()
        talking = asyncio.create_task(neighbour.talk())
        yield home
        neighbour.has_been_heard.clear()
        await asyncio.wait_for(neighbour.has_been_heard.wait(), WAIT_SECONDS)
        talking.cancel()
        assert neighbour.longest_wait_seconds < CHUNK_SECONDS
        assert home.engine.num_sessions == home.admission.num_taken == 1
        assert num_left() == left_before


def append(audio: Any) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio})


def audio_format(**fields: Any) -> str:
    session = {"audio": {"input": {"format": fields}}}
    return json.dumps({"type": "session.update", "session": session})


def nonsense(num_bytes: int) -> str:
    return base64.b64encode(b"\1" * num_bytes).decode()


BAD_MESSAGES: dict[str, tuple[str | bytes, str]] = {
    "odd byte count": (append(nonsense(801)), "odd_byte_count"),
    "wrong base64": (append("not*base64"), "invalid_base64"),
    "base64 without its end": (append("QUJDRA"), "invalid_base64"),
    "text where audio belongs": (append("Hello, can you hear me?"), "invalid_base64"),
    "numbers where audio belongs": (append([0.1, 0.2]), "invalid_value"),
    "raw bytes": (b"\0\1" * 400, "binary_message"),
    "too long": (append("A" * LONGEST_MESSAGE_CHARACTERS), "message_too_large"),
    "slower than 8 kHz": (audio_format(type="audio/pcm", rate=7_999), "invalid_value"),
    "faster than 192 kHz": (audio_format(type="audio/pcm", rate=192_001), "invalid_value"),
    "a rate that is no number": (
        audio_format(type="audio/pcm", rate=float("nan")),
        "invalid_value",
    ),
    "stereo": (audio_format(type="audio/pcm", channels=2), "unsupported_audio_format"),
    "floats": (audio_format(type="audio/pcm-float32"), "unsupported_audio_format"),
    "another codec": (audio_format(type="audio/opus"), "unsupported_audio_format"),
    "deep": ('{"type":' * 10_000, "invalid_json"),
    "many values": ('{"type":' + "[{}," * 10_000, "message_too_large"),
    "a long id": (json.dumps({"type": "turn.signal", "event_id": "x" * 300}), "invalid_value"),
    "a long name": (
        json.dumps({"type": "response.create", "response": {"metadata": {"x" * 3_000_000: ""}}}),
        "invalid_value",
    ),
    "many modalities": (
        json.dumps({"type": "session.update", "session": {"modalities": ["smell"] * 10_000}}),
        "invalid_value",
    ),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
async def test_bad_message_concerns_its_client_alone(name: str) -> None:
    message, code = BAD_MESSAGES[name]
    async with neighbourhood(ScriptedEngine([REPLY])) as home:
        visitor = home.visit(Dialect.REALTIME)
        visitor.send_text(message)
        assert await visitor.error_code() == code
        visitor.send("response.create")
        await visitor.until("response.done")
        await visitor.drop()
        await settle()
        home.forget(visitor)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 192_000])
async def test_any_rate_between_is_heard_in_its_own_time(rate_hz: int) -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit(Dialect.REALTIME)
        visitor.send_text(audio_format(type="audio/pcm", rate=rate_hz))
        await visitor.until("session.updated")
        visitor.append(np.full(2 * rate_hz, 0.01, np.float32))
        visitor.send("input_audio_buffer.commit")
        await visitor.until("conversation.item.done")
        await settle()
        (session,) = engine.sessions
        assert len(session.chunks) == 2 / CHUNK_SECONDS


async def test_the_loudest_samples_are_no_broken_numbers() -> None:
    """PCM16 can hold no NaN; its extremes stay finite through the resampler."""
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit(Dialect.REALTIME)
        visitor.send_text(audio_format(type="audio/pcm", rate=48_000))
        extremes = np.tile([-32768, 32767], 24_000).astype("<i2").tobytes()
        visitor.send_text(append(base64.b64encode(extremes).decode()))
        await visitor.until("session.updated")
        await settle()
        (session,) = engine.sessions
        assert np.isfinite(np.concatenate(session.chunks)).all()


@pytest.mark.parametrize("seconds", [0.4, 60.0])
async def test_an_hour_of_silence_at_once(seconds: float) -> None:
    """In pieces that a model hears, or in pieces as large as fit a message."""
    engine = ScriptedEngine([ScriptedReply("word " * 10_000)], seconds_per_word=1.0)
    async with neighbourhood(engine) as home:
        visitor = home.visit(Dialect.REALTIME)
        # While it speaks, what it is sent waits.
        visitor.send("response.create")
        await visitor.until("response.created")
        silence = append(base64.b64encode(bytes(round(seconds * SAMPLE_RATE_HZ) * 2)).decode())
        for _ in range(round(3600 / seconds)):
            visitor.send_text(silence)
        visitor.send("session.update", session={})
        async with home.time.running():
            assert await visitor.error_code() == "input_audio_buffer_full"
            if seconds < 1:
                # Nearly every piece was an error.
                assert await visitor.closed() == (CloseCode.POLICY, "too_many_errors")
            else:
                await visitor.until("session.updated")
                await visitor.drop()
        await settle()
        home.forget(visitor)


async def test_a_flood_of_small_messages() -> None:
    async with neighbourhood(ScriptedEngine([REPLY])) as home:
        visitor = home.visit(Dialect.REALTIME)
        for _ in range(3_000):
            visitor.send("input_audio_buffer.clear")
        visitor.send("response.create")
        async with home.time.running():
            await visitor.until("response.done")
            await visitor.drop()
        await settle()
        home.forget(visitor)


async def test_a_flood_of_long_messages() -> None:
    """Each as much sound as fits one: more than three minutes at 8 kHz."""
    async with neighbourhood(ScriptedEngine([REPLY])) as home:
        visitor = home.visit(Dialect.REALTIME)
        visitor.send_text(audio_format(type="audio/pcm", rate=8_000))
        for _ in range(3):
            visitor.send_text(append(base64.b64encode(bytes(3_000_000)).decode()))
        visitor.send("session.update", session={})
        async with home.time.running():
            await visitor.until("session.updated")
            await visitor.until("session.updated")
            await visitor.drop()
        await settle()
        home.forget(visitor)


@pytest.mark.parametrize("dialect", Dialect)
async def test_who_reads_no_more_is_let_go(dialect: Dialect) -> None:
    """Replies of more than what is kept of a conversation, and a socket that takes none of it."""
    engine = ScriptedEngine([ScriptedReply(" ".join(["x" * 1_000_000] * 5))])
    async with neighbourhood(engine) as home:
        visitor = home.visit(dialect)
        await visitor.until("session.created")
        visitor.reads.clear()
        visitor.send("response.create")
        await settle()
        visitor.reads.set()
        assert await visitor.closed() == (CloseCode.POLICY, "client_too_slow")
        await home.time.pass_by(61)
        home.forget(visitor)


@pytest.mark.parametrize("dialect", Dialect)
async def test_who_vanishes_in_a_reply_leaves_nothing(dialect: Dialect) -> None:
    engine = ScriptedEngine([ScriptedReply("word " * 1_000)], seconds_per_word=0.01)
    async with neighbourhood(engine) as home:
        visitor = home.visit(dialect)
        visitor.send("response.create")
        await visitor.until("response.output_text.delta")
        await visitor.drop()
        await home.time.pass_by(61)
        home.forget(visitor)


def test_over_the_network() -> None:
    """A message of 100 MB, a peer that stops reading, one that is cut off: all slots come free."""
    engine = ScriptedEngine([ScriptedReply("x" * 6_000_000)])
    with serving(engine) as address, ExitStack() as peers:
        url = f"ws://{address}/v1/realtime"
        left = num_left()
        huge, deaf, cut = (
            peers.enter_context(connect(url, max_size=None, max_queue=1, close_timeout=0.1))
            for _ in range(3)
        )
        text, masked, length_follows, mask = 0x81, 0x80, 127, b"mask"
        header = bytes([text, masked | length_follows]) + (100_000_000).to_bytes(8, "big") + mask
        huge.socket.sendall(header)
        for peer in (deaf, cut):
            peer.send(json.dumps({"type": "response.create"}))
        # A reset instead of a goodbye.
        cut.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        cut.socket.close()
        wait_until_free(engine)
        deadline = time.monotonic() + WAIT_SECONDS
        while num_left() > left:
            assert time.monotonic() < deadline, "something of a client is still in memory"
            time.sleep(0.2)
        for peer in (huge, deaf):
            peer.socket.close()
