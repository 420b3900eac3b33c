"""The Live wire: its messages, its track and what it refuses, in time that passes as tests say."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from openai.types.live import ServerEvent
from pydantic import TypeAdapter

from backend.audio import float_to_pcm16
from backend.config import SPEECH_RATE_HZ
from backend.conversation.events import ReplyEnded, ReplySound, ReplyStarted
from backend.events import TurnStatus
from backend.protocol import Emotion
from backend.wires.audio_formats import Encoding, SpeechEncoder, WireFormat
from backend.wires.errors import CloseCode
from backend.wires.live.output import FRAME_BYTES, InputPlaces, OutputTrack
from backend.wires.live.sideband import LIVE_SIDEBAND
from backend.wires.live.wire import LIVE, LIVE_FORK
from backend.wires.registry import WIRES, wire_at
from backend.wires.wire import Address, WireKind
from tests.replies import DECISION
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.scripted_voices import Cast
from tests.sockets import House, Visitor, house, offer_of

SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(ServerEvent)
REPLY = ScriptedReply("Coming up: large latte.", Emotion.HAPPY)
PROMPT = ScriptedReply("{prompt}")
VOICE = {"output": {"voice": "espeak:en"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def at_home(
    reply: ScriptedReply = REPLY, idle_seconds: float = 0.0
) -> AsyncIterator[tuple[House, Visitor]]:
    """A client of a server on which time flies."""
    async with house(ScriptedEngine([reply]), idle_seconds) as home, home.time.running():
        yield home, come(home, LIVE, idle_seconds)


def come(home: House, kind: WireKind, idle_seconds: float = 0.0, **names: str) -> Visitor:
    offer = offer_of(home.engine, Cast().voices, idle_seconds)
    return home.admit(kind.request(Address({}, {}, names), offer))


async def start(visitor: Visitor, **config: Any) -> dict[str, Any]:
    visitor.send("session.start", session={"model": "any", "audio": VOICE, **config})
    event = await visitor.until("session.started")
    session: dict[str, Any] = event["session"]
    return session


def utterance(rate_hz: int = SPEECH_RATE_HZ) -> bytes:
    """0.8 s of tone and 0.8 s of silence: the script answers the third chunk."""
    seconds = np.arange(round(0.8 * rate_hz)) / rate_hz
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds)
    return float_to_pcm16(np.concatenate([tone, np.zeros_like(tone)]).astype(np.float32))


def say(visitor: Visitor, audio: bytes | None = None) -> None:
    encoded = base64.b64encode(utterance() if audio is None else audio).decode()
    visitor.send("session.input_audio.append", audio=encoded)


async def heard(visitor: Visitor, text: str) -> str:
    """What was said up to a text."""
    said = ""
    while text not in said:
        said += (await visitor.until("session.output_transcript.delta"))["delta"]
    return said


def require_shapes(visitor: Visitor) -> None:
    for event in visitor.received:
        SERVER_EVENT.validate_python(event)


async def test_context_becomes_the_prompt_and_commentary_is_said() -> None:
    history = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Tea?"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Gladly."}]},
    ]
    async with at_home(PROMPT) as (_, visitor):
        await start(visitor, instructions="Rules.", input=history)
        visitor.send("session.instructions.append", content="Be brief.", delegation_id=None)
        visitor.send("session.thinking.append", content="It rains.", delegation_id=None)
        visitor.send("session.commentary.append", content="Greet.", event_id="ask")
        appended = await visitor.until("session.commentary.appended")
        # Nothing was heard, and the model speaks.
        said = await heard(visitor, "own words: Greet.")
    assert appended["client_event_id"] == "ask"
    require_shapes(visitor)
    parts = ("Rules.", "Be kind.", "User: Tea?", "Assistant: Gladly.", "Be brief.", "It rains.")
    assert all(part in said for part in parts)


async def test_words_that_are_heard_lie_where_their_sound_does_on_the_timeline() -> None:
    engine = ScriptedEngine([REPLY], words=(" turn", " left"))
    async with house(engine) as home:
        visitor = come(home, LIVE)
        visitor.send("session.start", session={"model": "any", "audio": VOICE})
        await visitor.until("session.started")
        # The track has come to 4 s when 1.6 s of sound come at once.
        await home.time.pass_by(4.0)
        say(visitor)
        words = [await visitor.until("session.input_transcript.delta") for _ in range(2)]
        await home.time.pass_by(1.0)
    require_shapes(visitor)
    assert [word["delta"] for word in words] == ["turn", " left"]
    assert [(word["start_ms"], word["end_ms"]) for word in words] == [(2600, 2680), (3000, 3080)]


def test_audio_that_comes_unevenly_lies_on_the_timeline_without_gaps() -> None:
    places = InputPlaces()
    for now_ms in (100, 200, 390, 400, 500):
        places.came(0.1, now_ms)
    assert places.place_ms(0.45) == 450
    places.came(0.1, 2_000)
    assert [places.place_ms(0.45), places.place_ms(0.55)] == [450, 1_950]


async def test_context_that_does_not_fit_is_refused_and_forgotten() -> None:
    async with at_home(PROMPT) as (_, visitor):
        await start(visitor, instructions="Rules.")
        visitor.send("session.instructions.append", content="x" * 1_500, event_id="long")
        refused = await visitor.until("error")
        visitor.send("session.thinking.append", content="It rains.")
        await visitor.until("session.thinking.appended")
        visitor.send("session.commentary.append", content="Go.", delegation_id="delegation_1")
        stranger = await visitor.until("error")
        say(visitor)
        assert "x" not in (await heard(visitor, "It rains.")).replace("next", "")
    assert refused["client_event_id"] == "long"
    assert stranger["error"]["code"] == "delegation_not_found"


async def test_muted_input_is_silence_and_a_fixture_stands_before_all() -> None:
    fixture = b"\x10\x20" * SPEECH_RATE_HZ
    async with at_home() as (home, visitor):
        await start(visitor)
        visitor.send("session.input_audio.mute", event_id="mute")
        assert (await visitor.until("session.input_audio.muted"))["client_event_id"] == "mute"
        say(visitor)
        visitor.send(
            "session.output_audio.fixture.play",
            audio=base64.b64encode(fixture).decode(),
            event_id="bell",
        )
        visitor.send("session.instructions.append", content="No.")
        say(visitor, b"\x00\x40" * SPEECH_RATE_HZ)
        await visitor.until("session.output_audio.fixture.playing")
        assert (await visitor.until("error"))["error"]["code"] == "fixture_active"
        played = await visitor.until("session.output_audio.fixture.played")
        (session,) = home.engine.sessions
        visitor.send("session.input_audio.unmute")
        await visitor.until("session.input_audio.unmuted")
        assert not np.any(session.chunks)
        say(visitor)
        await heard(visitor, REPLY.text)
    require_shapes(visitor)
    assert played["client_event_id"] == "bell"
    audio = b"".join(
        base64.b64decode(event["delta"])
        for event in visitor.received
        if event["type"] == "session.output_audio.delta"
    )
    assert fixture in audio


@pytest.mark.parametrize("encoding", [Encoding.MU_LAW, Encoding.A_LAW])
async def test_telephones_are_heard_and_spoken_to(encoding: Encoding) -> None:
    telephone = WireFormat(encoding, 8_000)
    audio = {**VOICE, "format": {"type": encoding.value, "rate": 8_000}}
    async with at_home() as (home, visitor):
        session = await start(visitor, audio=audio)
        say(visitor, telephone.encode(utterance(8_000)))
        await heard(visitor, REPLY.text)
        # Until its end: the filter gives a little less at first.
        for _ in range(5):
            await visitor.until("session.output_audio.delta")
        (heard_by_model,) = home.engine.sessions
        level = float(np.abs(heard_by_model.chunks[0]).max())
    assert session["audio"]["format"] == {"type": encoding.value, "rate": 8_000}
    assert level == pytest.approx(0.3, abs=0.02)
    deltas = [e["delta"] for e in visitor.received if e["type"] == "session.output_audio.delta"]
    assert 1_600 in {len(base64.b64decode(delta)) for delta in deltas}


async def test_what_the_model_cannot_do_is_said_by_name() -> None:
    async with at_home() as (_, visitor):
        await start(visitor, delegation={"type": "responses", "responses": {"model": "other"}})
        assert (await visitor.until("info"))["code"] == "delegation_unsupported"
        for event_type, code in (
            ("response.create", "delegation_unsupported"),
            ("response.item.create", "delegation_unsupported"),
            ("decision.item.create", "decision_items_unsupported"),
            ("transport.dmtf.send", "unknown_event_type"),
            ("transport.dtmf.send", "sip_unsupported"),
            ("session.start", "invalid_value"),
            ("session.close.please", "unknown_event_type"),
        ):
            visitor.send(event_type, event_id="mistake")
            refused = await visitor.until("error")
            assert (refused["error"]["code"], refused["client_event_id"]) == (code, "mistake")
        visitor.send("session.start", session={"model": "any"})
        assert await visitor.error_code() == "session_already_started"
        visitor.send("session.update", session={"delegation": {"type": "client"}})
        assert await visitor.error_code() == "immutable_parameter"
        visitor.send("session.update", session={})
        await visitor.until("session.updated")
        visitor.send("decision.create", event_id="now")
        assert await visitor.error_code() == "decisions_not_configured"
        visitor.send("session.output_audio.fixture.play", audio="")
        assert await visitor.error_code() == "invalid_value"
        visitor.send_text(b"\0\0")
        assert await visitor.error_code() == "binary_message"
    require_shapes(visitor)


async def test_decisions_are_answers_to_one_question() -> None:
    questions = [
        {"type": "predicate", "name": "speak", "instructions": "Should you speak now?"},
        {"type": "choice", "name": "drink", "instructions": "Which?", "choices": []},
    ]
    delegation = {"type": "decisions", "decisions": {"model": "any", "questions": questions}}
    async with at_home() as (_, visitor):
        session = await start(visitor, delegation=delegation)
        created = await visitor.until("session.delegation.created")
        say(visitor)
        probabilities = []
        for _ in range(3):
            event = await visitor.until("decision.event")
            assert event["delegation_id"] == created["delegation"]["id"]
            answer, refusal = event["event"]["decision"]["answers"]
            probabilities.append(answer["probability"])
            assert refusal == {"type": "refusal", "name": "drink"}
        visitor.send("decision.create", event_id="now")
        while (await visitor.until("decision.event")).get("client_event_id") != "now":
            pass
        visitor.send("decision.create", event_id="now")
        assert await visitor.error_code() == "duplicate_event_id"
    require_shapes(visitor)
    assert probabilities == [0.2, 0.2, 0.97]
    assert session["delegation"]["type"] == "decisions"


async def test_usage_is_told_as_time_goes_by_and_quiet_ends_a_session() -> None:
    async with at_home(idle_seconds=30.0) as (_, visitor):
        await start(visitor)
        usage = await visitor.until("session.usage.updated")
        assert (await visitor.until("info"))["code"] == "session_expires_soon"
        closed = await visitor.until("session.closed")
        assert await visitor.closed() == (CloseCode.EXPIRED, "session_expired")
    assert usage["usage"]["seconds"] == 10.0
    assert closed["reason"] == "expired"
    # Nothing comes after the farewell.
    assert visitor.received[-1] == closed


BAD_STARTS: dict[str, tuple[dict[str, Any], str]] = {
    "another message": ({"type": "session.input_audio.mute"}, "session_not_started"),
    "a farewell": ({"type": "session.close"}, "session_not_started"),
    "no model": ({"type": "session.start", "session": {}}, "invalid_value"),
    "no such rate": (
        {
            "type": "session.start",
            "session": {"model": "m", "audio": {"format": {"type": "audio/pcm", "rate": 44_100}}},
        },
        "invalid_value",
    ),
    "an unknown field": (
        {"type": "session.start", "session": {"model": "m", "tools": []}},
        "invalid_value",
    ),
    "no such voice": (
        {"type": "session.start", "session": {"model": "m", "audio": {"output": {"voice": "x"}}}},
        "invalid_value",
    ),
    "endless instructions": (
        {"type": "session.start", "session": {"model": "m", "instructions": "x" * 2_000}},
        "invalid_value",
    ),
}


@pytest.mark.parametrize("name", BAD_STARTS)
async def test_what_cannot_start_is_refused(name: str) -> None:
    message, code = BAD_STARTS[name]
    async with at_home() as (home, visitor):
        visitor.send(message["type"], **{k: v for k, v in message.items() if k != "type"})
        assert await visitor.closed() == (CloseCode.POLICY, code)
        assert home.admission.num_taken == 0


async def test_one_that_looks_on_goes_with_the_session_and_not_before() -> None:
    async with at_home() as (home, visitor):
        session = await start(visitor)
        stranger = come(home, LIVE_SIDEBAND, session_id="sess_none")
        assert await stranger.closed() == (CloseCode.NOT_FOUND, "session_not_found")
        gone, there = (come(home, LIVE_SIDEBAND, session_id=session["id"]) for _ in range(2))
        await gone.until("session.started")
        await there.until("session.started")
        await gone.drop()
        there.send("session.input_audio.append", audio="AAAA")
        assert await there.error_code() == "unsupported_event"
        there.send("session.input_audio.mute", event_id="steer")
        for both in (visitor, there):
            muted = await both.until("session.input_audio.muted")
            assert muted["client_event_id"] == "steer"
        await visitor.drop()
        assert (await there.until("session.closed"))["reason"] == "remote_hangup"
        assert await there.closed() == (CloseCode.NORMAL, "close_requested")
        assert home.admission.num_taken == 0
    assert "error" not in visitor.types


async def test_conversations_of_other_wires_are_not_looked_at() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        realtime = home.visit()
        session_id = (await realtime.until("session.created"))["session"]["id"]
        stranger = come(home, LIVE_SIDEBAND, session_id=session_id)
        assert await stranger.closed() == (CloseCode.NOT_FOUND, "session_not_found")


def test_each_path_has_its_wire() -> None:
    for kind in WIRES:
        assert wire_at(f"/behind/a/proxy{kind.path.replace('{session_id}', 'sess_1')}") is kind
    assert wire_at("/v1/live/sessions/sess_1/fork") is LIVE_FORK


# The track


def started(turn: int = 0) -> ReplyStarted:
    return ReplyStarted(turn, DECISION, Emotion.HAPPY, "audio", None)


def ended(text: str, status: TurnStatus = TurnStatus.COMPLETED) -> ReplyEnded:
    return ReplyEnded(0, text, "audio", status, None, None, None, 0.0, None, None, 0)


def sound(sentence: str, seconds: float, is_first: bool = True) -> ReplySound:
    return ReplySound(0, b"\x01\x00" * round(seconds * SPEECH_RATE_HZ), 0.0, sentence, is_first)


def test_words_come_with_their_sound() -> None:
    track = OutputTrack()
    track.start(started())
    track.add(sound("One two three four. ", 1.0))
    track.add(sound("Five.", 0.3))
    track.end(ended("One two three four. Five. :-)"))
    frames = [track.next_frame() for _ in range(8)]
    assert "".join(frame.text for frame in frames) == "One two three four. Five. :-)"
    assert frames[0].text in ("", "One")
    assert frames[4].text.endswith("four. ")
    assert [frame.emotion for frame in frames if frame.emotion] == [Emotion.HAPPY]
    assert [len(frame.pcm) for frame in frames] == [FRAME_BYTES] * 7 + [0]


def test_nothing_of_a_stopped_reply_is_said() -> None:
    track = OutputTrack()
    track.start(started())
    track.add(sound("One two three four. ", 4.0))
    said = track.next_frame().text + track.next_frame().text
    track.end(ended("One two three four. Five.", TurnStatus.CANCELLED))
    assert "four" not in said
    assert track.next_frame().pcm == b""


def test_sound_that_is_late_leaves_a_pause_and_no_gap_in_time() -> None:
    track = OutputTrack()
    track.start(started())
    track.add(sound("One two.", 0.1))
    assert len(track.next_frame().pcm) == FRAME_BYTES
    assert track.next_frame().pcm == b""
    track.add(sound("One two.", 0.2, is_first=False))
    track.end(ended("One two."))
    assert track.next_frame().text.endswith("two.")


# Formats


@pytest.mark.parametrize("encoding", [Encoding.MU_LAW, Encoding.A_LAW])
def test_g711_keeps_what_it_can(encoding: Encoding) -> None:
    telephone = WireFormat(encoding, 8_000)
    samples = np.arange(-32_768, 32_768, dtype="<i2")
    decoded = np.frombuffer(telephone.decode(telephone.encode(samples.tobytes())), "<i2")
    error = np.abs(decoded.astype(int) - samples)
    # A sixteenth of a segment's width and less, as tables 1 and 2 of ITU-T G.711 have it.
    assert (error <= np.maximum(np.abs(samples.astype(int)) / 16, 8) + 1).mean() > 0.98
    assert error.max() <= 644
    codes = bytes(range(256))
    levels = telephone.decode(codes)
    assert telephone.decode(telephone.encode(levels)) == levels


def test_g711_has_the_codes_of_the_recommendation() -> None:
    quiet = {Encoding.MU_LAW: b"\xff", Encoding.A_LAW: b"\xd5"}
    loud = {Encoding.MU_LAW: b"\x80", Encoding.A_LAW: b"\xaa"}
    for encoding in (Encoding.MU_LAW, Encoding.A_LAW):
        telephone = WireFormat(encoding, 8_000)
        assert telephone.encode(b"\0\0") == quiet[encoding]
        assert telephone.encode(b"\xff\x7f") == loud[encoding]


def test_a_stream_loses_nothing_on_its_way_to_another_rate() -> None:
    encoder = SpeechEncoder(WireFormat(rate_hz=16_000))
    piece = b"\x01\x00" * 4_800
    encoded = b"".join(encoder.encode(piece) for _ in range(5)) + encoder.finish()
    assert len(encoded) == 5 * 3_200 * 2
