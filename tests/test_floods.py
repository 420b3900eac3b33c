"""Floods on one socket: whoever sends too much waits or is shown out, and others go on."""

import asyncio
import base64
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from backend.allowance import BUSY_SOCKETS_SHARE, SAVED_SECONDS, SOCKET_SHARE, LoopShare, LoopTime
from backend.config import CHUNK_SAMPLES, SessionSettings
from backend.conversation.commands import Command, DiscardAudio
from backend.conversation.conversation import Conversation
from backend.conversation.model_session import (
    CHANGE_BURST,
    CHANGES_PER_SECOND,
    PROMPT_COST,
)
from backend.serving.http_protocol import ServerConfig
from backend.serving.limits import ConnectionLimits, OpenConnections
from backend.serving.process import ServingOptions
from backend.serving.proxies import Proxies
from backend.serving.socket_protocol import (
    FRAMES_PER_TURN,
    IDLE_FRAME_BURST,
    LATE_BYTES,
    PacedSocket,
)
from backend.wires.errors import CloseCode
from tests.scripted import LONGEST_PROMPT, ScriptedEngine, ScriptedReply, ScriptedSession
from tests.serving import serving, wait_until_free
from tests.sockets import WAIT_SECONDS, SteppedTime, house, settle

KEY = "open-sesame"
NUM_FLOODING = 20_000
PATH = "/v1/realtime?duplex=1&input_rate=16000"
CHUNK = json.dumps(
    {
        "type": "input_audio_buffer.append",
        "audio": base64.b64encode(bytes(CHUNK_SAMPLES * 2)).decode(),
    }
)
BEAT = json.dumps({"type": "session.heartbeat"}).encode()


def masked(opcode: Opcode, data: bytes = b"", fin: bool = True) -> bytes:
    """A frame as clients send it."""
    return Frame(opcode, data, fin).serialize(mask=True)


IDLE = {
    "pings": masked(Opcode.PING),
    "long pings": masked(Opcode.PING, bytes(125)),
    "pongs": masked(Opcode.PONG),
    "empty messages": masked(Opcode.TEXT),
    "short fragments": masked(Opcode.CONT, b" ", fin=False),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine([ScriptedReply("One moment please.")])


class Peer:
    """A client that sends whatever bytes it is told to."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._protocol = ClientProtocol(parse_uri(f"ws://{address}{PATH}"))
        self._socket = socket.create_connection((host, int(port)), WAIT_SECONDS)
        self._protocol.send_request(self._protocol.connect())
        self.send(b"".join(self._protocol.data_to_send()))
        while self._protocol.state is State.CONNECTING:
            # A byte at a time, so that what follows the handshake is left for `frames`.
            data = self._socket.recv(1)
            assert data, "the server hung up during the handshake"
            self._protocol.receive_data(data)
        self._protocol.events_received()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def frames(self) -> Iterator[Frame]:
        """What the server sends, until it ends the connection."""
        while True:
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                return
            if not data:
                return
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                assert isinstance(event, Frame)
                yield event

    @property
    def close_code(self) -> tuple[int, str]:
        """How the server closed the socket."""
        close = self._protocol.close_rcvd
        assert close is not None, "the server did not say why"
        return close.code, close.reason

    def close(self) -> None:
        self._socket.close()


class Talker:
    """A client that behaves."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.until("session.created")

    def until(self, event_type: str) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(self._socket.recv(WAIT_SECONDS))
            if event["type"] == event_type:
                return event

    def is_heard(self) -> None:
        """Another chunk is decided on."""
        self._socket.send(CHUNK)
        self.until("response.listen")


@pytest.mark.parametrize("kind", IDLE)
def test_who_floods_is_shown_out_and_told_why(
    engine: ScriptedEngine, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = masked(Opcode.TEXT, b" " * 1000, fin=False) if kind == "short fragments" else b""
    with serving(engine) as address:
        with connect(f"ws://{address}{PATH}", proxy=None) as socket:
            talker = Talker(socket)
            peer = Peer(address)
            peer.send(first + IDLE[kind] * NUM_FLOODING)
            frames = list(peer.frames())
            peer.close()
            talker.is_heard()
        told = [json.loads(bytes(frame.data)) for frame in frames if frame.opcode is Opcode.TEXT]
        assert told[-1]["error"]["code"] == "too_many_frames"
        assert "a second" in told[-1]["error"]["message"]
        assert peer.close_code == (CloseCode.POLICY, "too_many_frames")
        num_pongs = sum(frame.opcode is Opcode.PONG for frame in frames)
        assert num_pongs <= 2 * IDLE_FRAME_BURST
        # Nobody is waited for who was shown out.
        wait_until_free(engine)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("kind", IDLE)
def test_who_has_no_key_cannot_flood_either(engine: ScriptedEngine, kind: str) -> None:
    with serving(engine, options=ServingOptions(access_key=KEY)) as address:
        knows = {"Authorization": f"Bearer {KEY}"}
        with connect(f"ws://{address}{PATH}", proxy=None, additional_headers=knows) as socket:
            talker = Talker(socket)
            peer = Peer(address)
            peer.send(IDLE[kind] * NUM_FLOODING)
            num_pongs = sum(frame.opcode is Opcode.PONG for frame in peer.frames())
            peer.close()
            talker.is_heard()
        assert num_pongs <= 2 * IDLE_FRAME_BURST


def test_what_comes_too_fast_waits_and_none_of_it_is_lost(engine: ScriptedEngine) -> None:
    num_beats = 1500
    with serving(engine) as address:
        peer = Peer(address)
        peer.send(masked(Opcode.TEXT, BEAT) * num_beats)
        peer.send(masked(Opcode.TEXT, json.dumps({"type": "session.close"}).encode()))
        types = [
            json.loads(bytes(f.data))["type"] for f in peer.frames() if f.opcode is Opcode.TEXT
        ]
        assert types.count("session.heartbeat_ack") == num_beats
        assert types[-1] == "session.closed"
        peer.close()


class StillTransport(asyncio.Transport):
    """Keeps what is written, and whether it is read from."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.reads = True
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self.reads

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        """It stays."""


@contextmanager
def still(app: Callable[[Any, Any, Any], Awaitable[None]]) -> Iterator[PacedSocket]:
    """A socket of `app` on a `StillTransport`, whose peer has asked for the handshake."""
    connections = OpenConnections(ConnectionLimits(), Proxies())
    config = ServerConfig(
        app, connections, ws=PacedSocket, ws_per_message_deflate=False, lifespan="off"
    )
    config.load()
    served = PacedSocket(config, ServerState(), {})
    served.connection_made(StillTransport())
    protocol = ClientProtocol(parse_uri("ws://localhost/"))
    protocol.send_request(protocol.connect())
    served.data_received(b"".join(protocol.data_to_send()))
    try:
        yield served
    finally:
        served.connection_lost(None)
        for task in served.tasks:
            task.cancel()


@pytest.mark.anyio
async def test_nothing_is_read_while_a_socket_has_had_its_turn() -> None:
    """Of 100 000 pings in one go only the first are answered before others have their turn."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()

    with still(app) as served:
        transport = served.transport
        assert isinstance(transport, StillTransport)
        # Before it is accepted, what it sends is kept, and no more is read.
        served.data_received(masked(Opcode.PING) * 10)
        assert not transport.is_reading()
        await settle()
        assert b"101 Switching Protocols" in transport.written
        assert transport.is_reading()
        transport.written.clear()
        served.data_received(masked(Opcode.PING) * 100_000)
        num_answered = transport.written.count(b"\x8a\x00")
        assert FRAMES_PER_TURN <= num_answered <= FRAMES_PER_TURN + 170
        assert not transport.is_reading()


@pytest.mark.anyio
@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_who_was_told_to_go_is_not_listened_to_for_long(says_goodbye: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 3000, "reason": "invalid_api_key"})

    with still(app) as served:
        transport = served.transport
        assert isinstance(transport, StillTransport)
        await settle()
        served.data_received(masked(Opcode.TEXT, bytes(100_000)))
        if says_goodbye:
            served.data_received(masked(Opcode.CLOSE, (3000).to_bytes(2)))
            assert transport.is_closed
        else:
            served.data_received(masked(Opcode.TEXT, bytes(LATE_BYTES)))
            assert not transport.is_reading()


# Work that a client orders costs it its own turn


class CostlyTime(SteppedTime):
    """Each step that the loop's thread takes costs it some milliseconds of work."""

    step_seconds = 0.0

    def worked(self) -> float:
        self.work_seconds += self.step_seconds
        return self.work_seconds


@pytest.mark.anyio
async def test_who_costs_more_than_its_share_waits() -> None:
    time = CostlyTime()
    time.step_seconds = 0.05
    loop_time = LoopTime(time)
    num_done = [0, 0]

    async def work(number: int) -> None:
        num_done[number] += 1

    async def flood(number: int, share: LoopShare) -> None:
        while True:
            await share.run(work, number)
            await share.settle()

    alone = asyncio.create_task(flood(0, loop_time.share()))
    await settle()
    # What was saved up, and one on credit.
    assert num_done == [3, 0]
    await time.pass_by(10)
    assert num_done[0] == pytest.approx(3 + 10 * SOCKET_SHARE / 0.05, abs=1)
    # Many get less each than one alone.
    crowd = [asyncio.create_task(flood(1, loop_time.share())) for _ in range(10)]
    await settle()
    num_done = [0, 0]
    await time.pass_by(100)
    assert sum(num_done) == pytest.approx(100 * BUSY_SOCKETS_SHARE / 0.05, rel=0.1)
    assert num_done[0] == pytest.approx(num_done[1] / 10, rel=0.2)
    for task in (alone, *crowd):
        task.cancel()


@pytest.mark.anyio
async def test_work_that_is_counted_ends_as_it_would() -> None:
    share = LoopTime(SteppedTime()).share()
    waiting = asyncio.Event()

    async def answer() -> str:
        await asyncio.sleep(0)
        return "done"

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def wait() -> None:
        try:
            await waiting.wait()
        finally:
            waiting.set()

    assert await share.run(answer) == "done"
    with pytest.raises(ValueError, match="no"):
        await share.run(fail)
    working = asyncio.create_task(share.run(wait))
    await settle()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert waiting.is_set()


@pytest.mark.anyio
async def test_a_costly_client_is_obeyed_later_and_its_neighbour_at_once(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    obeyed: list[Command] = []
    obey = Conversation.obey

    async def obey_at_a_cost(conversation: Conversation, command: Command) -> None:
        if isinstance(command, DiscardAudio):
            obeyed.append(command)
            home.time.work_seconds += 0.05
        await obey(conversation, command)

    monkeypatch.setattr(Conversation, "obey", obey_at_a_cost)
    async with house(engine) as home:
        flooder, neighbour = home.visit(), home.visit()
        for _ in range(100):
            flooder.send("input_audio_buffer.clear")
        await settle()
        # What was saved up; each message costs a little more than what is done for it.
        assert len(obeyed) == SAVED_SECONDS / 0.05
        for _ in range(5):
            neighbour.append(np.zeros(CHUNK_SAMPLES, np.float32))
            await neighbour.until("response.listen")
        assert len(obeyed) == SAVED_SECONDS / 0.05
        await home.time.pass_by(10.0)
        assert len(obeyed) == pytest.approx((SAVED_SECONDS + 10 * SOCKET_SHARE) / 0.05, abs=1)


NUM_PROMPTS_AT_ONCE = round(CHANGE_BURST / PROMPT_COST)


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[SessionSettings]:
    """What the engine was asked to follow."""
    asked: list[SessionSettings] = []
    change = ScriptedSession.change_settings

    async def note(session: ScriptedSession, settings: SessionSettings) -> None:
        asked.append(settings)
        await change(session, settings)

    monkeypatch.setattr(ScriptedSession, "change_settings", note)
    return asked


@pytest.mark.anyio
async def test_of_prompts_that_come_too_fast_only_the_newest_counts(
    engine: ScriptedEngine, changes: list[SessionSettings]
) -> None:
    async with house(engine) as home:
        visitor = home.visit()
        for number in range(500):
            visitor.send("session.update", session={"instructions": f"Prompt {number}."})
        visitor.send("session.heartbeat")
        await visitor.until("session.heartbeat_ack")
        assert len(changes) == visitor.types.count("session.updated") == NUM_PROMPTS_AT_ONCE
        await home.time.pass_by(20.0)
        assert len(changes) == visitor.types.count("session.updated") == NUM_PROMPTS_AT_ONCE + 1
        assert changes[-1].system_prompt == "Prompt 499."
        assert visitor.received[-1]["session"]["instructions"] == "Prompt 499."
        # It goes on so for as long as they come.
        await home.time.pass_by(1000.0)
        num_before = len(changes)
        for number in range(1000):
            visitor.send("session.update", session={"instructions": f"Another {number}."})
            await home.time.pass_by(0.1)
        num_allowed = NUM_PROMPTS_AT_ONCE + 100 * CHANGES_PER_SECOND / PROMPT_COST
        assert num_allowed - 2 <= len(changes) - num_before <= num_allowed
        await home.time.pass_by(20.0)
        assert changes[-1].system_prompt == "Another 999."


@pytest.mark.anyio
async def test_a_late_prompt_that_does_not_fit_is_taken_back(
    engine: ScriptedEngine, changes: list[SessionSettings]
) -> None:
    async with house(engine) as home:
        visitor = home.visit()
        for number in range(NUM_PROMPTS_AT_ONCE):
            visitor.send("session.update", session={"instructions": f"It fits {number} times."})
        long = {"instructions": "x" * (LONGEST_PROMPT + 1), "output_modalities": ["audio"]}
        visitor.send("session.update", event_id="too-long", session=long)
        await settle()
        assert len(changes) == NUM_PROMPTS_AT_ONCE
        assert "error" not in visitor.types
        await home.time.pass_by(20.0)
        error, updated = visitor.received[-2:]
        assert error["error"]["code"] == "invalid_value"
        assert error["error"]["event_id"] == "too-long"
        assert updated["session"]["instructions"] == "It fits 3 times."
        # What is not the engine's was in force at once, and stays.
        assert updated["session"]["output_modalities"] == ["audio"]
        visitor.send("session.update", session={"instructions": "This fits, too."})
        await home.time.pass_by(20.0)
        assert changes[-1].system_prompt == "This fits, too."
        assert visitor.received[-1]["session"]["instructions"] == "This fits, too."


@pytest.mark.anyio
async def test_eagerness_that_goes_to_and_fro_comes_to_the_newest(
    engine: ScriptedEngine, changes: list[SessionSettings]
) -> None:
    async with house(engine) as home:
        visitor = home.visit()
        for number in range(501):
            visitor.send("session.update", session={"decision_bias": 1.0 + number % 2})
        visitor.send("session.heartbeat")
        await visitor.until("session.heartbeat_ack")
        # The last asks for what was followed last, or not long before.
        assert len(changes) == CHANGE_BURST
        await home.time.pass_by(20.0)
        assert changes[-1].decision_bias == 1.0
        assert visitor.received[-1]["session"]["audio"]["input"]["turn_detection"] is not None
        assert len(changes) <= CHANGE_BURST + 1
