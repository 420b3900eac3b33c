"""Spoken replies on the wire: their events, who is heard when, and what stops them."""

import base64
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from backend.audio import Samples, pcm16_to_float, read_audio
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ
from backend.conversation.events import (
    CancelReason,
    ConversationEvent,
    ReplyEnded,
    ReplyStarted,
    ReplyWithheld,
)
from backend.conversation.replies import PendingRequest, Replies
from backend.errors import AudioInteractionError
from backend.events import TurnDone, TurnStarted, TurnStatus
from backend.protocol import Emotion
from backend.wires.errors import WireError
from backend.wires.realtime.session import Dialect
from tests.replies import DECISION
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.scripted_voices import Cast
from tests.talking import WAIT_SECONDS, Talk, WireEvent, only, talking, types

SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
REPLY = ScriptedReply("One moment, please. It is ready now.", Emotion.HAPPY)
WORDS = (" turn", " left")
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"
OFFLINE = {"output_modalities": ["audio"], "audio": {"output": {"voice": "espeak:en"}}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)


def order() -> Samples:
    """Somebody orders a coffee: about two seconds of speech."""
    return read_audio(SAMPLES / "order_large_dark_roast_americano.ogg")


async def ask(talk: Talk) -> None:
    """Have one reply begin: a tone, then silence."""
    times = np.arange(2 * CHUNK_SAMPLES) / SAMPLE_RATE_HZ
    tone = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    await talk.hear(np.concatenate([tone, silence(0.4)]))


async def test_a_spoken_reply_has_every_event_in_order_and_shape() -> None:
    async with talking(ScriptedEngine([REPLY]), Cast().voices, Dialect.REALTIME) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        events = await talk.until("response.done")
    for event in events:
        SERVER_EVENT.validate_python(event)
    kinds = [
        kind
        for kind, next_kind in zip(types(events), [*types(events)[1:], ""], strict=True)
        if kind != next_kind
    ]
    assert kinds[:6] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
    ]
    assert kinds[6] == "response.content_part.added"
    assert kinds[-6:] == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    deltas = only(events, "response.output_audio_transcript.delta")
    assert "".join(event["delta"] for event in deltas) == REPLY.text
    response = events[-1]["response"]
    assert response["output_modalities"] == ["audio"]
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": REPLY.text}]
    assert response["metadata"]["voice"] == "espeak:en"
    assert len(response["metadata"]) <= 16


async def test_the_sound_lies_where_the_events_say() -> None:
    async with talking(ScriptedEngine([REPLY]), Cast().voices) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        sounds = only(await talk.until("response.done"), "response.output_audio.delta")
    milliseconds = 0.0
    for sound in sounds:
        assert sound["audio_start_ms"] == milliseconds
        assert sound["sample_rate_hz"] == 24_000
        milliseconds += len(base64.b64decode(sound["delta"])) / 48
    assert [sound["sentence"] for sound in sounds if "sentence" in sound] == [
        "One moment, please. ",
        "It is ready now.",
    ]
    assert milliseconds == 1000


async def test_decisions_and_text_do_not_wait_for_the_voice() -> None:
    cast = Cast()
    cast.offline.may_speak.clear()
    async with talking(ScriptedEngine([REPLY]), cast.voices) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        await talk.hear(silence(1.2))
        events = await talk.until("response.listen", count=5)
        assert only(events, "response.output_audio_transcript.delta")
        assert not only(events, "response.output_audio.delta", "response.done")
        cast.offline.may_speak.set()
        await talk.until("response.done")


async def test_a_reply_waits_for_the_one_before_to_be_said() -> None:
    cast = Cast()
    cast.offline.may_speak.clear()
    async with talking(ScriptedEngine([REPLY, ScriptedReply("Second.")]), cast.voices) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        await ask(talk)
        await talk.hear(silence(0.4))
        events = await talk.until("response.listen", count=5)
        assert len(only(events, "response.created")) == 1
        cast.offline.may_speak.set()
        events = await talk.until("response.done", count=2)
    first, second = only(talk.told, "response.created")
    assert types(talk.told).index("response.done") < talk.told.index(second)
    done = only(events, "response.done")
    assert [d["response"]["id"] for d in done] == [e["response"]["id"] for e in (first, second)]
    assert done[1]["response"]["output"][0]["content"][0]["transcript"] == "Second."
    own = [e for e in events if e.get("response_id") == second["response"]["id"]]
    assert own[0]["type"] == "response.speak"


async def test_a_cancelled_reply_ends_at_once_and_its_late_sound_is_never_told() -> None:
    cast = Cast()
    cast.offline.may_speak.clear()
    async with talking(ScriptedEngine([REPLY]), cast.voices) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        await talk.until("response.output_audio_transcript.delta", count=7)
        await talk.send("response.cancel")
        (done,) = only(await talk.until("response.done"), "response.done")
        assert done["response"]["status"] == "cancelled"
        assert done["response"]["status_details"]["reason"] == "client_cancelled"
        cast.offline.may_speak.set()
        assert not only(await talk.rest(), "response.output_audio.delta")
        with pytest.raises(WireError, match="no response to cancel"):
            await talk.send("response.cancel")
        await ask(talk)
        (done,) = only(await talk.until("response.done"), "response.done")
        assert done["response"]["status"] == "completed"


async def test_cancelling_while_the_model_still_generates() -> None:
    engine = ScriptedEngine([ScriptedReply("word " * 50)], seconds_per_word=0.05)
    async with talking(engine, Cast().voices) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        await talk.until("response.output_audio_transcript.delta")
        await talk.send("output_audio_buffer.clear")
        events = await talk.until("response.done")
        assert events[-1]["response"]["status"] == "cancelled"
        assert only(events, "output_audio_buffer.cleared")


async def test_the_model_is_told_which_reply_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the sound of one is stopped, the model may be at the next one."""
    cast = Cast()
    cast.offline.may_speak.clear()
    engine = ScriptedEngine([REPLY])
    async with talking(engine, cast.voices) as talk:
        await talk.set(**OFFLINE)
        (session,) = engine.sessions
        stopped: list[int | None] = []
        monkeypatch.setattr(session, "interrupt", stopped.append)
        for _ in range(2):
            await ask(talk)
            await talk.until("response.output_audio_transcript.delta", count=7)
            await talk.send("response.cancel")
            await talk.until("response.done")
    assert stopped == [0, 1]


@pytest.mark.parametrize("modality", ["text", "audio"])
async def test_a_reply_is_cancelled_before_it_is_decided(modality: str) -> None:
    async with talking(ScriptedEngine([REPLY]), Cast().voices) as talk:
        await talk.set(**{**OFFLINE, "output_modalities": [modality]})
        await talk.send("response.create", response={"metadata": {"topic": "tea"}})
        with pytest.raises(WireError, match="there is no response"):
            await talk.send("response.cancel", response_id="resp_of_another")
        await talk.send("response.cancel")
        events = await talk.until("response.done")
        response = events[-1]["response"]
        assert response["status"] == "cancelled"
        assert response["status_details"]["reason"] == "client_cancelled"
        assert response["metadata"]["topic"] == "tea"
        assert len(only(events, "response.created")) == 1
        assert not [kind for kind in types(events) if kind.endswith(".delta")]
        await talk.send("response.create")
        assert (await talk.until("response.done"))[-1]["response"]["status"] == "completed"


async def test_the_offline_voice_takes_over_with_one_notice() -> None:
    cast = Cast()
    cast.online.fails_after_blocks = 0
    async with talking(ScriptedEngine([REPLY, REPLY]), cast.voices) as talk:
        await talk.set(output_modalities=["audio"])
        for asked_online in (cast.online.id, None):
            await ask(talk)
            metadata = (await talk.until("response.done"))[-1]["response"]["metadata"]
            assert metadata["voice"] == "espeak:en"
            assert metadata.get("online_voice") == asked_online
    (notice,) = only(talk.told, "notice")
    assert notice["code"] == "voice_fallback"
    assert not only(talk.told, "error")


async def test_a_voice_that_breaks_costs_its_sound_alone() -> None:
    cast = Cast()
    cast.offline.fails_after_blocks = 1
    async with talking(ScriptedEngine([REPLY]), cast.voices) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        events = await talk.until("response.done")
        assert events[-1]["response"]["status"] == "completed"
        assert [notice["code"] for notice in only(events, "notice")] == ["voice_unavailable"]
        await talk.hear(silence(0.4))
        await talk.until("response.listen")


async def test_one_reply_may_be_spoken_and_another_written() -> None:
    async with talking(ScriptedEngine([REPLY]), Cast().voices) as talk:
        await talk.send("response.create", response={"output_modalities": ["audio"]})
        first = (await talk.until("response.done"))[-1]["response"]
        await talk.send("response.create")
        second = (await talk.until("response.done"))[-1]["response"]
    assert [r["output_modalities"] for r in (first, second)] == [["audio"], ["text"]]


# Voices over a reply.


async def speak_over(talk: Talk, words: Samples) -> list[WireEvent]:
    """A reply plays, acknowledged as the page does, while somebody says something."""
    await talk.set(**OFFLINE)
    await ask(talk)
    await talk.until("response.done")
    (reply,) = {e["response_id"] for e in only(talk.told, "response.output_audio.delta")}
    await talk.send("playback.ack", response_id=reply, played_ms=0, audio_seconds=1.2)
    await talk.until("playback.acknowledged")
    await talk.hear(words)
    return await talk.rest()


LONG = ScriptedReply("One. Two. Three. Four. Five. Six. Seven. Eight. Nine. Ten. Eleven. Twelve.")


async def test_speaking_over_a_reply_holds_it_then_stops_it() -> None:
    async with talking(ScriptedEngine([LONG, REPLY]), Cast().voices) as talk:
        events = await speak_over(talk, order())
        overlaps = only(events, "overlap.decision")
        assert [(o["action"], o["reason"]) for o in overlaps] == [
            ("listen", "speech_onset"),
            ("barge_in", "speech"),
        ]
        held, stopped = (o["metadata"] for o in overlaps)
        assert held["response_id"] == only(talk.told, "response.created")[0]["response"]["id"]
        assert held["seconds"] - held["onset_seconds"] < 0.25
        assert stopped["seconds"] - stopped["onset_seconds"] < 0.8
        assert only(events, "input_audio_buffer.speech_started")


async def test_a_reply_that_is_still_being_said_is_cancelled_by_a_voice() -> None:
    cast = Cast()
    cast.offline.may_speak.clear()
    async with talking(ScriptedEngine([LONG]), cast.voices) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        await talk.until("response.output_audio_transcript.delta", count=12)
        await talk.hear(order())
        done = (await talk.until("response.done"))[-1]["response"]
        assert done["status"] == "cancelled"
        assert done["status_details"]["reason"] == "turn_detected"
        cast.offline.may_speak.set()
        late = only(await talk.rest(), "response.output_audio.delta")
        assert done["id"] not in [sound["response_id"] for sound in late]


def test_who_stopped_a_reply_first_stopped_it() -> None:
    """Clients of the API cancel a reply when they are told of speech over it."""
    events: list[ConversationEvent] = []
    replies = Replies(events.append, lambda: 0.0)
    replies.decided(DECISION, 0.0)
    replies.start(TurnStarted(0, 0, None))
    replies.cancel(CancelReason.VOICE)
    replies.cancel(CancelReason.CLIENT)
    replies.generated(TurnDone(0, 0, "", None, TurnStatus.CANCELLED))
    assert isinstance(events[-1], ReplyEnded)
    assert events[-1].cancel_reason is CancelReason.VOICE


def test_reply_that_is_withheld_is_told_when_the_one_before_has_ended() -> None:
    events: list[ConversationEvent] = []
    replies = Replies(events.append, lambda: 0.0)
    replies.decided(DECISION, 0.0)
    replies.start(TurnStarted(0, 0, None))
    replies.request(PendingRequest("wanted", 1, until_chunk=2))
    replies.withdraw_request(CancelReason.CLIENT)
    replies.decided(replace(DECISION, chunk=2, speak=False), 0.0)
    assert [type(event) for event in events] == [ReplyStarted]
    replies.generated(TurnDone(0, 0, "", None, TurnStatus.COMPLETED))
    assert isinstance(events[1], ReplyEnded)
    assert events[2:] == [ReplyWithheld("wanted", "text", CancelReason.CLIENT)]
    assert not replies.has_request


async def test_a_short_sound_does_not_stop_a_reply() -> None:
    spoken = order()
    async with talking(ScriptedEngine([LONG]), Cast().voices) as talk:
        events = await speak_over(talk, np.concatenate([loudest(spoken, 0.25), silence(1.0)]))
    assert [o["action"] for o in only(events, "overlap.decision")] == ["listen", "drop"]
    assert not only(events, "input_audio_buffer.speech_started")


def loudest(audio: Samples, seconds: float) -> Samples:
    """The loudest stretch of a recording."""
    length = round(seconds * SAMPLE_RATE_HZ)
    energy = np.convolve(audio**2, np.ones(length), "valid")
    start = int(energy.argmax())
    return audio[start : start + length]


async def test_without_interruption_a_voice_changes_nothing() -> None:
    detection = {"type": "semantic_vad", "interrupt_response": False}
    async with talking(ScriptedEngine([LONG]), Cast().voices) as talk:
        await talk.set(audio={"input": {"turn_detection": detection}})
        events = await speak_over(talk, order())
    assert "barge_in" not in [o["action"] for o in only(events, "overlap.decision")]


async def test_the_client_stops_a_reply_itself() -> None:
    async with talking(ScriptedEngine([LONG]), Cast().voices) as talk:
        events = await speak_over(talk, silence(0.1))
        await talk.send("barge_in")
        events = await talk.rest()
        (overlap,) = only(events, "overlap.decision")
        assert (overlap["action"], overlap["reason"]) == ("barge_in", "client")
        await talk.send("barge_in")
        assert not await talk.rest()


async def test_speech_is_told_with_the_item_that_it_becomes() -> None:
    async with talking(ScriptedEngine([REPLY]), dialect=Dialect.REALTIME) as talk:
        await talk.hear(np.concatenate([silence(0.5), order(), silence(1.0)]))
        events = await talk.until("response.done")
    for event in events:
        SERVER_EVENT.validate_python(event)
    started, stopped, committed = only(
        events,
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    )[:3]
    assert started["type"] == "input_audio_buffer.speech_started"
    assert stopped["type"] == "input_audio_buffer.speech_stopped"
    assert started["item_id"] == stopped["item_id"] == committed["item_id"]
    assert 400 < started["audio_start_ms"] < stopped["audio_end_ms"]
    end_seconds = float(events[-1]["response"]["metadata"]["speech_end_seconds"])
    assert end_seconds == pytest.approx(stopped["audio_end_ms"] / 1000, abs=0.6)


async def test_words_are_told_with_the_item_that_they_become() -> None:
    async with talking(ScriptedEngine([REPLY], words=WORDS), dialect=Dialect.REALTIME) as talk:
        shown = await talk.set(audio={"input": {"transcription": {"model": "any"}}})
        await talk.hear(np.concatenate([silence(0.5), order(), silence(1.0)]))
        events = await talk.until(COMPLETED)
        await talk.send("conversation.item.retrieve", item_id=events[-1]["item_id"])
        retrieved = (await talk.until("conversation.item.retrieved"))[-1]["item"]
    for event in events:
        SERVER_EVENT.validate_python(event)
    assert shown["audio"]["input"]["transcription"] == {"model": "scripted"}
    (committed,) = only(events, "input_audio_buffer.committed")
    deltas = only(events, DELTA)
    assert {event["item_id"] for event in deltas} == {committed["item_id"]}
    assert "".join(event["delta"] for event in deltas).startswith("turn left turn")
    starts = [event["audio_start_ms"] for event in deltas]
    assert starts == sorted(starts)
    assert all(400 < event["audio_start_ms"] < event["audio_end_ms"] for event in deltas)
    assert events[-1]["item_id"] == committed["item_id"]
    assert events[-1]["transcript"] == "".join(event["delta"] for event in deltas)
    assert 1.0 < events[-1]["usage"]["seconds"] <= len(order()) / SAMPLE_RATE_HZ + 1.5
    assert retrieved["content"] == [{"type": "input_audio", "transcript": events[-1]["transcript"]}]


async def test_words_are_not_told_unasked() -> None:
    for asked, words in ((None, WORDS), ({"model": "any"}, None)):
        async with talking(ScriptedEngine([REPLY], words=words)) as talk:
            shown = await talk.set(audio={"input": {"transcription": asked}})
            await ask(talk)
            told = types(await talk.rest())
        assert shown["audio"]["input"]["transcription"] is None
        assert "response.done" in told
        assert not {DELTA, COMPLETED} & set(told)


@pytest.mark.parametrize("has_turns", [True, False])
async def test_a_transcription_session_tells_words_and_never_replies(has_turns: bool) -> None:
    audio = {"input": {"turn_detection": {"type": "server_vad"} if has_turns else None}}
    async with talking(ScriptedEngine([REPLY], words=WORDS), dialect=Dialect.REALTIME) as talk:
        shown = await talk.set(type="transcription", audio=audio)
        for _ in range(2):
            await talk.hear(np.concatenate([silence(0.5), order(), silence(2.0)]))
            if not has_turns:
                await talk.send("input_audio_buffer.commit")
        events = await talk.rest()
        with pytest.raises(WireError, match="has no responses"):
            await talk.send("response.create")
        with pytest.raises(WireError, match="to its end"):
            await talk.set(type="realtime")
    for event in events:
        SERVER_EVENT.validate_python(event)
    assert shown["type"] == "transcription"
    assert not [kind for kind in types(events) if kind.startswith("response.")]
    committed = [event["item_id"] for event in only(events, "input_audio_buffer.committed")]
    assert len(committed) >= 2
    assert [event["item_id"] for event in only(events, COMPLETED)] == committed
    for completed in only(events, COMPLETED):
        of_item = [e["delta"] for e in only(events, DELTA) if e["item_id"] == completed["item_id"]]
        assert completed["transcript"] == "".join(of_item).strip() != ""


async def test_times_do_not_drift_where_audio_is_cleared() -> None:
    """A filter holds some audio back, at any rate but the model's."""
    async with talking(ScriptedEngine([REPLY])) as talk:
        await talk.set(decision_bias=-8, audio={"input": {"format": {"rate": 24_000}}})
        for _ in range(60):
            await talk.hear(silence(0.1))
            await talk.send("input_audio_buffer.clear")
        begins_ms = talk.conversation.arrived_seconds * 1000
        await talk.hear(soxr.resample(order(), SAMPLE_RATE_HZ, 24_000))
        (started,) = only(await talk.rest(), "input_audio_buffer.speech_started")
        # The order begins with 0.9 s of near silence.
        assert started["audio_start_ms"] == pytest.approx(begins_ms + 900, abs=300)


async def test_a_reply_to_no_speech_says_so() -> None:
    async with talking(ScriptedEngine([REPLY])) as talk:
        await ask(talk)
        (speak,) = only(await talk.until("response.done"), "response.speak")
    assert "speech_end_seconds" not in speak["metadata"]


async def test_our_own_voice_coming_back_is_neither_obeyed_nor_heard() -> None:
    engine = ScriptedEngine(
        [
            ScriptedReply("The weather is lovely and we are all going home."),
            ScriptedReply("Me again."),
        ]
    )
    async with talking(engine) as talk:
        await talk.set(output_modalities=["audio"], audio={"output": {"voice": "espeak:en-us"}})
        await ask(talk)
        sounds = only(await talk.until("response.done"), "response.output_audio.delta")
        spoken = pcm16_to_float(b"".join(base64.b64decode(s["delta"]) for s in sounds))
        echo = 0.3 * np.interp(
            np.arange(0, len(spoken), 1.5), np.arange(len(spoken)), spoken
        ).astype(np.float32)
        await play(talk, sounds[0]["response_id"], np.concatenate([silence(0.1), echo]))
        await talk.hear(silence(1.2))
        events = await talk.rest()
        (session,) = engine.sessions
        heard = np.concatenate(session.chunks[3:])
    assert "barge_in" not in [o["action"] for o in only(events, "overlap.decision")]
    assert not only(events, "input_audio_buffer.speech_started")
    assert len(only(talk.told, "response.created")) == 1
    loud = np.abs(heard.reshape(-1, CHUNK_SAMPLES)).max(axis=1) > 0.02
    assert loud.mean() < 0.5


async def play(talk: Talk, response_id: str, heard: Samples) -> None:
    """Send what the microphone hears while a reply plays, with acknowledgements."""
    start_seconds = 1.2
    for start in range(0, len(heard), CHUNK_SAMPLES // 2):
        seconds = start / SAMPLE_RATE_HZ
        await talk.send(
            "playback.ack",
            response_id=response_id,
            played_ms=seconds * 1000,
            audio_seconds=start_seconds + seconds,
        )
        await talk.hear(heard[start : start + CHUNK_SAMPLES // 2])


# What was heard of it.


async def test_a_truncated_item_keeps_what_was_heard() -> None:
    async with talking(ScriptedEngine([REPLY]), Cast().voices) as talk:
        await talk.set(**OFFLINE)
        await ask(talk)
        done = (await talk.until("response.done"))[-1]
        item_id = done["response"]["output"][0]["id"]
        await talk.send(
            "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=800
        )
        (truncated,) = await talk.until("conversation.item.truncated")
        SERVER_EVENT.validate_python(truncated)
        await talk.send("conversation.item.retrieve", item_id=item_id)
        (retrieved,) = await talk.until("conversation.item.retrieved")
        SERVER_EVENT.validate_python(retrieved)
    assert retrieved["item"]["content"][0]["transcript"] == "One moment, please. It is"


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("conversation.item.truncate", {"audio_end_ms": 0}),
        ("conversation.item.retrieve", {}),
        ("conversation.item.delete", {}),
    ],
)
async def test_an_item_that_is_not_there(event: str, fields: dict[str, Any]) -> None:
    async with talking(ScriptedEngine([REPLY])) as talk:
        with pytest.raises(WireError, match="there is no item") as error:
            await talk.send(event, item_id="item_of_another", **fields)
        assert error.value.code == "item_not_found"


async def test_an_acknowledgement_is_answered_with_what_there_is_of_the_reply() -> None:
    async with talking(ScriptedEngine([REPLY]), Cast().voices) as talk:
        with pytest.raises(WireError):
            await talk.send("playback.ack", played_ms=10)
        await talk.set(**OFFLINE)
        await ask(talk)
        await talk.until("response.done")
        await talk.send("playback.ack", played_ms=250)
        (acknowledged,) = await talk.until("playback.acknowledged")
    assert acknowledged["event"]["playback"] == {
        "generated_ms": 1000,
        "sent_ms": 1000,
        "played_ms": 250,
        "committed_ms": 250,
    }


# What is chosen.


async def test_settings_change_while_a_conversation_goes_on() -> None:
    engine = ScriptedEngine([REPLY])
    async with talking(engine) as talk:
        await ask(talk)
        await talk.until("response.done")
        session = await talk.set(
            temperature=0.7,
            top_k=5,
            max_output_tokens=99,
            audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}},
        )
        assert session["decision_bias"] == 2
        assert session["audio"]["input"]["turn_detection"]["eagerness"] == "high"
        (scripted,) = engine.sessions
        assert scripted.settings.decision_bias == 2
        assert scripted.settings.max_reply_tokens == 99
        await ask(talk)
        speak = only(await talk.until("response.done"), "response.speak")[-1]
        assert speak["metadata"]["speak_threshold"] == pytest.approx(0.1192)
        assert (await talk.set(decision_bias=-3.5))["decision_bias"] == -3.5
        assert (await talk.set(seed=4))["seed"] == scripted.settings.seed == 4
        with pytest.raises(WireError, match="does not fit"):
            await talk.set(instructions="Be brief. " * 1000)
        assert (await talk.set())["instructions"] == session["instructions"]


async def test_without_turn_detection_the_model_replies_only_when_asked() -> None:
    async with talking(ScriptedEngine([REPLY])) as talk:
        session = await talk.set(audio={"input": {"turn_detection": None}})
        assert session["audio"]["input"]["turn_detection"] is None
        await ask(talk)
        assert not only(await talk.until("response.listen", count=3), "response.created")
        await talk.send("response.create")
        await talk.until("response.done")
        session = await talk.set(audio={"input": {"turn_detection": {"type": "server_vad"}}})
        assert session["audio"]["input"]["turn_detection"] == {
            "type": "server_vad",
            "create_response": True,
            "interrupt_response": True,
        }
        await ask(talk)
        await talk.until("response.done")


REFUSED: dict[str, dict[str, Any]] = {
    "unknown voice": {"audio": {"output": {"voice": "espeak:klingon"}}},
    "fast voice": {"audio": {"output": {"speed": 9}}},
    "output rate": {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}},
    "output format": {"audio": {"output": {"format": {"type": "audio/opus"}}}},
    "bias": {"decision_bias": 12},
    "endless bias": {"decision_bias": -math.inf},
    "modality": {"output_modalities": ["smell"]},
    "eagerness": {"audio": {"input": {"turn_detection": {"eagerness": "wild"}}}},
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_chosen_is_refused_and_changes_nothing(name: str) -> None:
    async with talking(ScriptedEngine([REPLY])) as talk:
        before = await talk.set()
        with pytest.raises(AudioInteractionError):
            await talk.send("session.update", session=REFUSED[name])
        assert await talk.set() == before


async def test_older_and_other_names_are_understood() -> None:
    async with talking(ScriptedEngine([REPLY])) as talk:
        session = await talk.set(
            type="realtime",
            modalities=["audio", "text"],
            voice="alloy",
            tools=[{"type": "function", "name": "f", "parameters": {}}],
            tool_choice="auto",
            input_audio_format="pcm16",
            output_audio_format="pcm16",
            audio={"output": {"sample_rate_hz": 24_000}},
            turn_detection=None,
            extra_body={"auto_response": True},
        )
    assert session["output_modalities"] == ["audio"]
    assert session["audio"]["output"]["voice"] == "auto"
    assert session["audio"]["input"]["turn_detection"]["create_response"]
    assert session["tools"] == []


async def test_capabilities_tell_the_voices() -> None:
    async with talking(ScriptedEngine([REPLY])) as talk:
        capabilities = talk.told[0]["session"]["capabilities"]
    assert capabilities["chunk_period_ms"] == 400
    assert capabilities["max_positions"] == 4096
    assert {"id", "label", "language", "is_online"} == set(capabilities["voices"][0])


# Typed text.


async def test_typed_text_is_read_to_the_model_and_answered() -> None:
    engine = ScriptedEngine([REPLY])
    async with talking(engine) as talk:
        await talk.send("conversation.item.create", item=typed("Hello there.", id="item_mine"))
        await talk.send("response.create", response={"metadata": {"topic": "greeting"}})
        events = await talk.until("response.done")
        await talk.hear(silence(0.8))
        rest = await talk.rest()
        (session,) = engine.sessions
        heard = np.concatenate(session.chunks)
    assert types(events)[:3] == [
        "conversation.item.added",
        "conversation.item.created",
        "conversation.item.done",
    ]
    assert {event["item"]["id"] for event in events[:3]} == {"item_mine"}
    assert events[0]["item"]["content"] == [{"type": "input_text", "text": "Hello there."}]
    assert np.abs(heard).max() > 0.1
    assert events[-1]["response"]["metadata"]["topic"] == "greeting"
    assert not only(rest, "response.created"), "the model's own reply was the one asked for"


async def test_a_reply_to_typed_text_is_forced_where_the_model_keeps_silent() -> None:
    engine = ScriptedEngine([REPLY])
    async with talking(engine) as talk:
        await talk.set(decision_bias=-8)
        await talk.send("conversation.item.create", item=typed("Hello there."))
        await talk.rest()
        await talk.send("response.create")
        await talk.until("response.done")


async def test_a_request_after_the_model_has_begun_to_answer_is_satisfied() -> None:
    engine = ScriptedEngine([ScriptedReply("word " * 20)], seconds_per_word=0.02)
    async with talking(engine) as talk:
        await talk.send("conversation.item.create", item=typed("Hello there."))
        await talk.until("response.created")
        await talk.send("response.create")
        await talk.until("response.done")
        await talk.hear(silence(0.8))
        assert not only(await talk.rest(), "response.created")
        item_id = only(talk.told, "conversation.item.added")[0]["item"]["id"]
        with pytest.raises(WireError, match="there is an item"):
            await talk.send("conversation.item.create", item=typed("Again.", id=item_id))


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_request_that_comes_when_the_model_has_answered_is_satisfied_for_a_moment(
    is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a lost connection, over which the client could not see the answer."""
    seconds = 0.0 if is_late else WAIT_SECONDS
    monkeypatch.setattr("backend.conversation.conversation.LATE_REQUEST_SECONDS", seconds)
    async with talking(ScriptedEngine([REPLY])) as talk:
        await talk.send("conversation.item.create", item=typed("Hello there."))
        await talk.until("response.done")
        await talk.send("response.create")
        assert bool(only(await talk.rest(), "response.created")) is is_late
        # It was for what was typed; the next one asks for another reply.
        await talk.send("response.create")
        await talk.until("response.done")


async def test_a_clip_may_be_an_item() -> None:
    engine = ScriptedEngine([REPLY])
    pcm = (np.full(6_400, 0.25) * 32767).astype("<i2").tobytes()
    part = {"type": "input_audio", "audio": base64.b64encode(pcm).decode()}
    async with talking(engine) as talk:
        item = {"type": "message", "role": "user", "content": [part]}
        await talk.send("conversation.item.create", item=item)
        events = await talk.until("response.done")
        (session,) = engine.sessions
        assert np.abs(session.chunks[0]).min() > 0.24
    assert events[0]["item"]["content"] == [{"type": "input_audio", "transcript": None}]


def typed(text: str, **more: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content, **more}


UNREADABLE: dict[str, dict[str, Any]] = {
    "nothing": typed(""),
    "only a smile": typed("🙂"),
    "too long": typed("word " * 1000),
    "too long in all": {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "word " * 399}] * 5,
    },
    "many parts": {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "word"}] * 1000,
    },
    "a book": {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "word " * 100_000}],
    },
    "no content": {"type": "message", "role": "user"},
    "a tool's answer": {"type": "function_call_output", "call_id": "1", "output": "2"},
    "a picture": {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_image", "image_url": "data:"}],
    },
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_item_that_cannot_be_heard_is_refused_by_name(name: str) -> None:
    async with talking(ScriptedEngine([REPLY])) as talk:
        with pytest.raises(WireError) as error:
            await talk.send("conversation.item.create", item=UNREADABLE[name])
        assert error.value.code in ("invalid_value", "unsupported_item")
        assert not await talk.rest()


async def test_a_reply_that_a_client_adds_is_an_item_that_the_model_does_not_hear() -> None:
    said = {**typed(""), "role": "assistant"}
    said["content"] = [{"type": "output_text", "text": "Coming up."}]
    engine = ScriptedEngine([REPLY])
    async with talking(engine) as talk:
        await talk.send("conversation.item.create", item=said)
        (added,) = await talk.until("conversation.item.added")
        SERVER_EVENT.validate_python(added)
        assert added["item"]["content"] == said["content"]
        await talk.rest()
        assert not only(talk.told, "response.listen")


async def test_a_reply_that_a_client_adds_is_not_what_the_next_one_answers() -> None:
    said = {**typed("Coming up."), "role": "assistant"}
    engine = ScriptedEngine([REPLY])
    async with talking(engine) as talk:
        await talk.hear(np.full(CHUNK_SAMPLES // 2, 0.25, np.float32))
        await talk.send("conversation.item.create", item=said)
        await talk.send("response.create")
        await talk.until("response.done")
        (session,) = engine.sessions
        (chunk,) = session.chunks
    assert chunk.max() == pytest.approx(0.25, abs=0.01)


async def test_live_audio_goes_on_around_typed_text() -> None:
    engine = ScriptedEngine([REPLY])
    async with talking(engine) as talk:
        await talk.set(decision_bias=-8)
        await talk.hear(silence(0.3))
        await talk.send("conversation.item.create", item=typed("Hello."))
        await talk.hear(silence(0.5))
        # The text takes chunks of its own, as many as the voice takes to read it.
        seconds = [0.0]
        while seconds[-1] < 0.8:
            (decided,) = only(await talk.until("response.listen"), "response.listen")
            seconds.append(decided["response"]["metadata"]["seconds"])
    assert seconds[-2:] == [0.4, 0.8]
    assert set(seconds[:-2]) == {0.0}


async def test_a_reply_to_typed_text_does_not_end_what_is_being_said_live() -> None:
    async with talking(ScriptedEngine([REPLY])) as talk:
        await talk.hear(silence(0.3))
        await talk.send("conversation.item.create", item=typed("Hello."))
        events = await talk.until("response.done")
        assert not only(events, "input_audio_buffer.committed")
        assert only(events, "response.speak")[0]["metadata"]["speech_end_seconds"] == 0
        await ask(talk)
        await talk.hear(silence(0.4))
        assert only(await talk.until("response.done"), "input_audio_buffer.committed")
