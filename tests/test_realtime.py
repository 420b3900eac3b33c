"""The wire, as clients meet it: order and shape of events, errors by name, slots, other clients."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from starlette.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from backend.config import EngineConfig
from backend.conversation.hearing import Hearing
from backend.conversation.timeline import Timeline
from backend.conversation.voice_activity import VoiceDetection
from backend.engine import Engine
from backend.model.checkpoint import Checkpoint
from backend.protocol import Emotion
from backend.serving.access import is_same_origin
from tests.scripted import BREAK, ScriptedCheckpoint, ScriptedEngine, ScriptedReply
from tests.serving import serving, wait_until_free

WAIT_SECONDS = 60.0
REPLY = ScriptedReply("Coming up: large latte.", Emotion.HAPPY)
ECHO = ScriptedReply("{prompt}")

SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)

WireEvent = dict[str, Any]


class Client:
    """A client that waits for what it expects."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.created = self.receive()

    def send(self, event_type: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": event_type, **fields}))

    def append(self, audio: np.ndarray) -> None:
        pcm = np.rint(audio * 32767).astype("<i2").tobytes()
        self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    def receive(self) -> WireEvent:
        event: WireEvent = json.loads(self.socket.recv(timeout=WAIT_SECONDS))
        return event

    def until(self, event_type: str) -> list[WireEvent]:
        """Everything up to the first event of a type."""
        events = [self.receive()]
        while events[-1]["type"] != event_type:
            events.append(self.receive())
        return events

    def error_code(self) -> str:
        event = self.receive()
        assert event["type"] == "error", event
        code: str = event["error"]["code"]
        return code

    def close_code(self) -> int:
        """Why the server closes, which it must do now."""
        with pytest.raises(ConnectionClosed) as closed:
            self.receive()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code


class Clients:
    """Opens clients of one server and closes them at the end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._open = ExitStack()

    def open(self, query: str = "", **options: Any) -> Client:
        connecting = connect(f"ws://{self.address}/v1/realtime{query}", **options)
        return Client(self._open.enter_context(connecting))

    def close(self) -> None:
        self._open.close()


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine([REPLY])


@pytest.fixture(scope="module")
def address(engine: ScriptedEngine) -> Iterator[str]:
    with serving(engine) as address:
        yield address


@pytest.fixture
def clients(address: str) -> Iterator[Clients]:
    clients = Clients(address)
    yield clients
    clients.close()


def utterance(rate_hz: int) -> np.ndarray:
    """0.8 s of tone and 0.8 s of silence: the script answers the third chunk."""
    seconds = np.arange(round(0.8 * rate_hz)) / rate_hz
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds)
    return np.concatenate([tone, np.zeros_like(tone)])


def types(events: list[WireEvent]) -> list[str]:
    return [event["type"] for event in events]


def test_turn_has_every_event_in_order_and_shape(clients: Clients) -> None:
    client = clients.open()
    client.append(utterance(24_000))
    events = client.until("response.done")
    words = REPLY.text.split(" ")
    assert types(events) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(words),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    for event in [client.created, *events]:
        SERVER_EVENT.validate_python(event)
    assert len({event["event_id"] for event in events}) == len(events)


def test_emotion_and_times_are_metadata_never_text(clients: Clients) -> None:
    client = clients.open()
    client.append(utterance(24_000))
    events = client.until("response.done")
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == REPLY.text
    response = events[-1]["response"]
    assert response["output"][0]["content"] == [{"type": "output_text", "text": REPLY.text}]
    metadata = response["metadata"]
    assert metadata["emotion"] == "happy"
    assert metadata["chunk"] == "2"
    assert metadata["seconds"] == "1.2"
    assert metadata["speak_probability"] == "0.97"
    assert 0 <= float(metadata["decision_ms"]) <= float(metadata["latency_ms"])
    assert len(metadata) <= 16


def test_duplex_shows_every_decision(clients: Clients) -> None:
    client = clients.open("?duplex=1&input_rate=16000")
    assert client.created["session"]["capabilities"]["chunk_period_ms"] == 400
    client.append(utterance(16_000))
    events = client.until("response.done")
    listens = [e["response"]["metadata"] for e in events if e["type"] == "response.listen"]
    assert [m["chunk"] for m in listens] == [0, 1]
    assert [m["seconds"] for m in listens] == [0.4, 0.8]
    (speak,) = [e for e in events if e["type"] == "response.speak"]
    assert speak["metadata"]["emotion"] == "happy"
    position = types(events).index
    assert (
        position("response.created")
        < position("response.speak")
        < position("response.output_text.delta")
    )
    assert client.receive()["type"] == "response.listen"


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_other_rates_are_honoured_when_asked_for(clients: Clients, rate_hz: int) -> None:
    by_address = clients.open(f"?input_rate={rate_hz}")
    by_update = clients.open()
    audio_format = {"type": "audio/pcm", "rate": rate_hz}
    by_update.send(
        "session.update",
        session={"type": "realtime", "audio": {"input": {"format": audio_format}}},
    )
    by_update.until("session.updated")
    for client in (by_address, by_update):
        client.append(utterance(rate_hz))
        client.send("input_audio_buffer.commit")
        metadata = client.until("response.done")[-1]["response"]["metadata"]
        assert metadata["seconds"] == "1.2"


def test_update_merges_deeply(clients: Clients) -> None:
    client = clients.open()
    before = client.created["session"]
    assert before["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    client.send(
        "session.update",
        session={"type": "realtime", "instructions": "Be brief.", "temperature": 0},
    )
    after = client.until("session.updated")[-1]["session"]
    assert after == before | {"instructions": "Be brief.", "temperature": 0.0}


def test_every_setting_changes_while_the_conversation_goes_on(
    clients: Clients, engine: ScriptedEngine
) -> None:
    client = clients.open()
    client.append(utterance(24_000))
    client.until("response.done")
    client.send("session.update", session={"instructions": "Be brief.", "seed": 5})
    client.until("session.updated")
    (session,) = engine.sessions
    assert (session.settings.system_prompt, session.settings.seed) == ("Be brief.", 5)


def test_odd_ends_of_audio_are_heard_on_commit(clients: Clients, engine: ScriptedEngine) -> None:
    client = clients.open("?duplex=1&input_rate=16000")
    client.append(np.full(9_600, 0.1))
    client.send("input_audio_buffer.commit")
    client.send("input_audio_buffer.commit")
    events = client.until("error")
    assert events[-1]["error"]["code"] == "input_audio_buffer_commit_empty"
    while types(events).count("response.listen") < 2:
        events.append(client.receive())
    assert [name for name in types(events) if name not in ("response.listen", "error")] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    (session,) = engine.sessions
    first, second = session.chunks
    assert np.abs(first).min() > 0.09
    assert np.abs(second[:3_200]).min() > 0.09
    assert not second[3_200:].any()


def test_cleared_audio_is_not_heard(clients: Clients, engine: ScriptedEngine) -> None:
    client = clients.open("?duplex=1&input_rate=16000")
    client.append(np.full(6_000, 0.1))
    client.send("input_audio_buffer.clear")
    client.until("input_audio_buffer.cleared")
    client.append(np.full(6_400, 0.5))
    client.until("response.listen")
    (session,) = engine.sessions
    assert len(session.chunks) == 1
    assert np.abs(session.chunks[0]).min() > 0.49


def pcm16(level: float, seconds: float, rate_hz: int) -> bytes:
    return np.full(round(seconds * rate_hz), level * 32767, "<i2").tobytes()


def hearing(rate_hz: int) -> Hearing:
    return Hearing(Timeline(), rate_hz, lambda: 0.0)


async def test_nothing_from_before_a_clear_is_left_in_the_filter() -> None:
    audio, voices = hearing(24_000), VoiceDetection()
    assert not (await audio.append(pcm16(0.5, 0.3, 24_000), False, voices)).chunks
    audio.discard(reply_plays=False)
    (chunk,) = (await audio.append(pcm16(0.0, 0.5, 24_000), False, voices)).chunks
    assert not chunk.samples.any()
    # The client's time went on meanwhile.
    assert chunk.seconds == pytest.approx(0.7, abs=0.001)


async def test_nothing_is_lost_when_the_rate_changes() -> None:
    audio, voices = hearing(24_000), VoiceDetection()
    assert not (await audio.append(pcm16(0.5, 0.2, 24_000), False, voices)).chunks
    assert not audio.drain(reply_plays=False, rate_hz=16_000).chunks
    (chunk,) = (await audio.append(pcm16(0.5, 0.2, 16_000), False, voices)).chunks
    assert np.abs(chunk.samples[100:-100]).min() > 0.3


def test_request_is_for_the_audio_sent_before_it(clients: Clients) -> None:
    """A whole clip, sent at once: the reply comes after its end, however long hearing it takes."""
    client = clients.open("?duplex=1&input_rate=16000")
    client.append(np.zeros(5 * 6_400))
    client.send("input_audio_buffer.commit")
    client.send("response.create", response={"metadata": {"topic": "greeting"}})
    events = client.until("response.done")
    assert types(events).count("response.listen") == 5
    assert events[-1]["response"]["metadata"]["chunk"] == "5"
    assert events[-1]["response"]["metadata"]["topic"] == "greeting"


def test_reply_on_request_without_audio(clients: Clients) -> None:
    client = clients.open()
    client.send("response.create", response={"metadata": {"topic": "greeting"}})
    events = client.until("response.done")
    assert types(events)[0] == "response.created"
    assert events[0]["response"]["metadata"]["topic"] == "greeting"
    client.send("response.cancel")
    assert client.error_code() == "response_cancel_not_active"


def test_request_that_is_repeated_is_answered_once(clients: Clients) -> None:
    client = clients.open(DUPLEX_16_KHZ)
    for event_id in ("one", "other"):
        client.send("response.create", event_id=event_id, response={"metadata": {"id": event_id}})
        created = client.until("response.created")[-1]
        assert created["response"]["metadata"]["id"] == event_id
        client.until("response.done")
        client.send("response.create", event_id=event_id, response={"metadata": {"id": "again"}})


def test_requests_of_a_client_that_gives_all_one_id_are_answered(clients: Clients) -> None:
    client = clients.open()
    for _ in range(2):
        client.send("response.create", event_id="event_1")
        client.until("response.done")


def test_cancelled_reply_says_so() -> None:
    slow = ScriptedEngine([ScriptedReply("one two three four five six seven")], seconds_per_word=1)
    with serving(slow) as address:
        clients = Clients(address)
        client = clients.open()
        client.send("response.create")
        created = client.until("response.content_part.added")[0]
        client.send("response.create")
        assert client.error_code() == "conversation_already_has_active_response"
        client.send("response.cancel", response_id="resp_before")
        assert client.error_code() == "response_cancel_not_active"
        client.send("response.cancel", response_id=created["response"]["id"])
        response = client.until("response.done")[-1]["response"]
        assert response["status"] == "cancelled"
        assert response["status_details"]["reason"] == "client_cancelled"
        clients.close()


@pytest.fixture
def behind() -> Iterator[tuple[ScriptedEngine, Client]]:
    """A client whose model has no room for more audio: it speaks for minutes."""
    engine = ScriptedEngine(
        [ScriptedReply("word " * 200)], seconds_per_word=1, max_pending_chunks=2
    )
    with serving(engine) as address:
        clients = Clients(address)
        client = clients.open("?input_rate=16000")
        client.send("response.create")
        client.until("response.content_part.added")
        client.append(np.zeros(10 * 6_400))
        yield engine, client
        clients.close()


def test_client_is_obeyed_while_its_audio_waits(behind: tuple[ScriptedEngine, Client]) -> None:
    _, client = behind
    client.send("session.update", session={})
    client.until("session.updated")
    client.send("response.cancel")
    assert client.until("response.done")[-1]["response"]["status"] == "cancelled"


def test_client_that_vanishes_while_its_audio_waits_frees_its_slot(
    behind: tuple[ScriptedEngine, Client],
) -> None:
    engine, client = behind
    client.socket.socket.close()
    wait_until_free(engine)


def test_audio_that_cannot_wait_is_refused_by_name(
    behind: tuple[ScriptedEngine, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.conversation.conversation.MAX_WAITING_SECONDS", 2.0)
    _, client = behind
    client.append(np.zeros(2_400))
    errors = [event for event in client.until("error") if event["type"] == "error"]
    assert errors[0]["error"]["code"] == "input_audio_buffer_full"
    assert "0.15 s of audio in this message are dropped" in errors[0]["error"]["message"]
    client.send("input_audio_buffer.commit")
    assert client.until("error")[-1]["error"]["code"] == "input_audio_buffer_full"


BAD_MESSAGES: dict[str, tuple[str | bytes, str]] = {
    "not JSON": ("hello", "invalid_json"),
    "not an object": ("[1, 2]", "invalid_event"),
    "no type": ("{}", "invalid_event"),
    "deeper than anything": ("[" * 10_000, "invalid_json"),
    "unknown event": ('{"type": "session.dance"}', "unknown_event_type"),
    "binary": (b"\0\0", "binary_message"),
    "not base64": ('{"type": "input_audio_buffer.append", "audio": "Ä!"}', "invalid_base64"),
    "odd bytes": ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "odd_byte_count"),
    "no audio": ('{"type": "input_audio_buffer.append"}', "invalid_value"),
    "audio is a list": ('{"type": "input_audio_buffer.append", "audio": [0]}', "invalid_value"),
    "too long": (" " * 5_000_000, "message_too_large"),
    "hot": ('{"type": "session.update", "session": {"temperature": 9}}', "invalid_value"),
    "not a number": (
        '{"type": "session.update", "session": {"temperature": NaN}}',
        "invalid_value",
    ),
    "negative seed": ('{"type": "session.update", "session": {"seed": -1}}', "invalid_value"),
    "codec": (
        '{"type": "session.update", "session": {"input_audio_format": "opus"}}',
        "unsupported_audio_format",
    ),
    "long prompt": (
        json.dumps({"type": "session.update", "session": {"instructions": "x" * 5_000}}),
        "invalid_value",
    ),
    "slow rate": ('{"type": "session.update", "session": {"sample_rate_hz": 10}}', "invalid_value"),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_message_is_a_named_error_and_the_connection_goes_on(
    clients: Clients, name: str
) -> None:
    message, code = BAD_MESSAGES[name]
    client = clients.open()
    client.socket.send(message)
    error = client.receive()
    SERVER_EVENT.validate_python(error)
    assert error["error"]["code"] == code
    client.append(utterance(24_000))
    assert client.until("response.done")[-1]["response"]["status"] == "completed"


@pytest.mark.parametrize(
    "query", ["?input_rate=fast", "?input_rate=100", f"?input_rate={'9' * 5000}"]
)
def test_impossible_address_is_explained(address: str, query: str) -> None:
    with connect(f"ws://{address}/v1/realtime{query}") as socket:
        error = json.loads(socket.recv(timeout=WAIT_SECONDS))
        assert error["error"]["code"] == "invalid_value"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=WAIT_SECONDS)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_huge_message_ends_only_its_own_connection(
    clients: Clients, engine: ScriptedEngine
) -> None:
    other, client = clients.open(), clients.open()
    # The start of a frame says how long it will be: the server need not see the rest.
    text, masked, length_follows, mask = 0x81, 0x80, 127, b"mask"
    header = bytes([text, masked | length_follows]) + (100_000_000).to_bytes(8, "big") + mask
    client.socket.socket.sendall(header)
    assert client.close_code() == 1009
    other.append(utterance(24_000))
    other.until("response.done")
    other.socket.close()
    wait_until_free(engine)


def test_full_server_says_so_and_frees_slots_at_once() -> None:
    engine = ScriptedEngine([REPLY], num_slots=1)
    with serving(engine) as address:
        clients = Clients(address)
        first = clients.open()
        refused = clients.open()
        assert refused.created["error"]["code"] == "session_limit_reached"
        assert refused.close_code() == 1013
        first.socket.close()
        wait_until_free(engine)
        assert clients.open().created["type"] == "session.created"
        clients.close()


def test_full_server_lets_a_client_change_its_settings() -> None:
    with serving(ScriptedEngine([ECHO], num_slots=1)) as address:
        clients = Clients(address)
        client = clients.open()
        client.send("session.update", session={"instructions": "Be brief."})
        client.until("session.updated")
        client.send("session.update", session={"instructions": "x" * 5_000})
        assert client.error_code() == "invalid_value"
        client.append(utterance(24_000))
        done = client.until("response.done")[-1]["response"]
        assert done["output"][0]["content"][0]["text"] == "Be brief."
        clients.close()


def test_impossible_settings_of_a_checkpoint_are_explained() -> None:
    engine = ScriptedEngine([REPLY])
    engine.checkpoint = ScriptedCheckpoint(system_prompt="x" * 5_000)
    with serving(engine) as address:
        client = Clients(address).open()
        assert client.created["error"]["code"] == "invalid_value"
        assert client.close_code() == 1008


def test_client_that_vanishes_mid_reply_frees_its_slot() -> None:
    engine = ScriptedEngine([ScriptedReply("one two three four five")], seconds_per_word=1)
    with serving(engine) as address:
        client = Clients(address).open()
        client.send("response.create")
        client.until("response.created")
        client.socket.socket.close()
        wait_until_free(engine)


def test_client_that_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.serving.sockets.SEND_TIMEOUT_SECONDS", 0.5)
    engine = ScriptedEngine([ScriptedReply("x" * 10_000_000)])
    with serving(engine) as address:
        clients = Clients(address)
        client = clients.open(max_queue=1, close_timeout=0.1)
        client.send("response.create")
        wait_until_free(engine)
        clients.close()


def test_failed_session_is_explained() -> None:
    with serving(ScriptedEngine([ScriptedReply(BREAK)])) as address:
        client = Clients(address).open()
        client.send("response.create")
        assert client.error_code() == "session_failed"
        assert client.close_code() == 1011


def test_two_clients_keep_their_own_settings() -> None:
    with serving(ScriptedEngine([ECHO])) as address:
        clients = Clients(address)
        both = [clients.open(), clients.open()]
        for number, client in enumerate(both):
            client.send("session.update", session={"instructions": f"client {number}"})
            client.until("session.updated")
        for client in both:
            client.append(utterance(24_000))
        for number, client in enumerate(both):
            done = client.until("response.done")[-1]["response"]
            assert done["output"][0]["content"][0]["text"] == f"client {number}"
        clients.close()


def test_two_sessions_of_the_real_engine_do_not_mix(
    golden_checkpoint: Checkpoint, golden_clip: Mapping[str, np.ndarray]
) -> None:
    spoken = golden_clip["audio"][: 6 * 6_400]
    quiet = np.zeros_like(spoken)
    with (
        Engine(golden_checkpoint, EngineConfig(num_slots=2)) as engine,
        serving(engine) as address,
    ):
        clients = Clients(address)
        alone = [_decisions([clients.open(DUPLEX_16_KHZ)], [audio])[0] for audio in (spoken, quiet)]
        clients.close()
        wait_until_free(engine)
        pair = [clients.open(DUPLEX_16_KHZ), clients.open(DUPLEX_16_KHZ)]
        together = _decisions(pair, [spoken, quiet])
        clients.close()
    assert alone[0] != alone[1]
    for mixed, expected in zip(together, alone, strict=True):
        assert mixed == pytest.approx(expected, abs=1e-3)


DUPLEX_16_KHZ = "?duplex=1&input_rate=16000"


def _decisions(clients: list[Client], clips: list[np.ndarray]) -> list[list[float]]:
    """The chance to speak after each chunk, all clients sending at the same time, greedily."""
    for client in clients:
        client.send("session.update", session={"temperature": 0, "max_output_tokens": 4})
        client.until("session.updated")
    for start in range(0, len(clips[0]), 6_400):
        for client, clip in zip(clients, clips, strict=True):
            client.append(clip[start : start + 6_400])
    return [_probabilities(client, len(clips[0]) // 6_400) for client in clients]


def _probabilities(client: Client, num_chunks: int) -> list[float]:
    probabilities: list[float] = []
    while len(probabilities) < num_chunks:
        event = client.receive()
        if event["type"] == "response.listen":
            probabilities.append(event["response"]["metadata"]["speak_probability"])
        elif event["type"] == "response.speak":
            probabilities.append(event["metadata"]["speak_probability"])
    return probabilities


ORIGINS = {
    "no browser": ({"host": "localhost:7860"}, True),
    "our page": ({"host": "localhost:7860", "origin": "http://localhost:7860"}, True),
    "default port": ({"host": "live.example", "origin": "https://live.example"}, True),
    "named default port": ({"host": "live.example:443", "origin": "https://live.example"}, True),
    "behind a proxy": (
        {
            "host": "10.0.0.5:7860",
            "x-forwarded-host": "live.example",
            "origin": "https://live.example",
        },
        True,
    ),
    "elsewhere": ({"host": "localhost:7860", "origin": "https://evil.example"}, False),
    "another port": ({"host": "localhost:7860", "origin": "http://localhost:3000"}, False),
    "a sandbox": ({"host": "localhost:7860", "origin": "null"}, False),
    "nothing named": ({"host": "", "origin": "http://"}, False),
    "broken": ({"host": "[", "origin": "http://["}, False),
    "nonsense": ({"host": "localhost:7860", "origin": "http://localhost:port"}, False),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_only_our_own_page_may_connect(name: str) -> None:
    headers, allowed = ORIGINS[name]
    assert is_same_origin(Headers(headers)) is allowed


def test_page_from_elsewhere_is_refused(address: str) -> None:
    client = Clients(address).open(additional_headers={"Origin": "https://evil.example"})
    assert client.created["error"]["code"] == "origin_not_allowed"
    assert client.close_code() == 1008


def test_subprotocol_is_accepted_when_offered(clients: Clients) -> None:
    offered = ["realtime", "openai-insecure-api-key.none"]
    assert clients.open(subprotocols=offered).socket.subprotocol == "realtime"
    assert clients.open().socket.subprotocol is None


async def test_openai_sdk(address: str) -> None:
    sdk = AsyncOpenAI(api_key="none", base_url=f"http://{address}/v1")
    pcm = np.rint(utterance(24_000) * 32767).astype("<i2").tobytes()
    said = []
    async with sdk.realtime.connect(model="audio-interaction") as connection:
        await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
        async for event in connection:
            if event.type == "response.output_text.delta":
                said.append(event.delta)
            if event.type == "response.done":
                break
    assert "".join(said) == REPLY.text
    assert event.type == "response.done"
    assert event.response.status == "completed"
    assert event.response.metadata is not None
    assert event.response.metadata["emotion"] == "happy"
