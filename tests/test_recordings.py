"""What a server records: from the wire into files, whatever happens meanwhile."""

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import app
from backend.audio import Samples, read_audio
from backend.cli import EXIT_ERROR
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ, EngineConfig, SessionSettings
from backend.conversation.timeline import Timeline
from backend.engine import Engine
from backend.engine.core import EngineCore
from backend.errors import RecordingError
from backend.events import TurnStatus
from backend.model.checkpoint import Checkpoint
from backend.protocol import Emotion
from backend.recordings.live import RecordingStopped, StopReason
from backend.recordings.packing import pack_copy
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import Recorder, _Writer, describe
from backend.recordings.records import BargeInRecord, SettingsRecord, TypedRecord
from backend.recordings.replay import Verifier
from backend.recordings.store import RecordingStore, StoreOptions
from backend.recordings.transcript import read_transcript
from backend.trace import Cause
from backend.wires.realtime.session import Dialect
from tests.conftest import SAMPLES
from tests.recorded import RecordedHouse, recorded_house
from tests.recording import noise_chunks, run
from tests.scripted import ScriptedEngine, ScriptedReply, ScriptedSession
from tests.scripted_voices import Cast
from tests.sockets import Visitor, WireEvent, settle

REPLY = ScriptedReply("One moment, please. It is ready now.", Emotion.HAPPY)
LONG = ScriptedReply("Well. " * 40)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def tone(seconds: float) -> Samples:
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)


async def ask(visitor: Visitor) -> None:
    """Have the script reply to a tone, and wait for the reply's end."""
    visitor.append(np.concatenate([tone(0.8), silence(0.8)]))
    await visitor.until("response.done")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# From the wire into a file


async def test_a_conversation_is_recorded_from_its_beginning(tmp_path: Path) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path / "kept") as house:
        visitor = house.talk("An order")
        await visitor.until("session.created")
        started = await visitor.until("recording.started")
        assert visitor.types[:2] == ["session.created", "recording.started"]
        assert started["title"] == "An order"
        await ask(visitor)
        with await house.stopped(visitor) as file:
            assert file.manifest.title == "An order"
            assert file.is_complete
            (reply,) = read_transcript(file).replies
            assert (reply.text, reply.emotion) == (REPLY.text, Emotion.HAPPY)
            assert file.num_chunks == 4
            heard = np.concatenate(list(file.chunks()))
        assert np.abs(heard[: 2 * CHUNK_SAMPLES] - tone(0.8)).max() < 1e-4
        # The conversation goes on, and there is nothing to stop any more.
        await ask(visitor)
        visitor.send("recording.stop")
        assert await visitor.error_code() == "recording_not_active"


async def test_nothing_is_written_of_those_who_did_not_ask(tmp_path: Path) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path / "kept") as house:
        visitor = house.talk(None)
        await ask(visitor)
        visitor.send("session.close")
        await visitor.until("session.closed")
        assert "recording.started" not in visitor.types
    assert names(tmp_path) == []


async def test_the_recording_ends_with_the_conversation(tmp_path: Path) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        visitor = house.talk("")
        await ask(visitor)
        visitor.send("session.close")
        stopped = await visitor.until("recording.stopped")
        await visitor.until("session.closed")
        assert (stopped["reason"], stopped["bytes"]) == ("session_ended", None)
        assert stopped["seconds"] == pytest.approx(1.6)
        await visitor.closed()
        await house.recordings.close()
        with SessionFile(house.store.find(stopped["recording_id"])) as file:
            assert file.is_complete
        # The place was free before that.
        assert house.admission.num_taken == 0


async def test_the_recording_ends_also_where_the_slot_cannot_be_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: ScriptedSession) -> None:
        raise RuntimeError("CUDA error")

    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        visitor = house.talk("")
        started = await visitor.until("recording.started")
        with monkeypatch.context() as patch:
            patch.setattr(ScriptedSession, "close", broken)
            visitor.send("session.close")
            await visitor.closed()
            await settle()
        assert house.admission.num_taken == 0
        ending = house.recordings.end(started["recording_id"], StopReason.DELETED)
        assert ending is None or (await ending).reason is StopReason.SESSION_ENDED


async def test_two_are_recorded_at_once(tmp_path: Path) -> None:
    replies = [ScriptedReply("first"), ScriptedReply("second")]
    async with recorded_house(ScriptedEngine(replies), tmp_path) as house:
        visitors = [house.talk("left"), house.talk("right", Dialect.REALTIME)]
        for visitor in visitors:
            await ask(visitor)
        await ask(visitors[1])
        texts = []
        for visitor in visitors:
            with await house.stopped(visitor) as file:
                replies_kept = [reply.text for reply in read_transcript(file).replies]
                texts.append((file.manifest.title, replies_kept))
        assert texts == [("left", ["first"]), ("right", ["first", "second"])]


async def test_a_lost_socket_does_not_end_the_recording(tmp_path: Path) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        visitor = house.talk("")
        created = await visitor.until("session.created")
        await ask(visitor)
        await visitor.drop()
        back = await house.resume(created, visitor.numbers[-1])
        await back.until("session.resumed")
        await ask(back)
        with await house.stopped(back) as file:
            assert len(read_transcript(file).replies) == 2
            assert file.num_chunks == 8


async def test_what_the_engine_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = ScriptedEngine([REPLY], num_slots=1)
    async with recorded_house(engine, tmp_path / "kept") as house:
        # There is a place, and yet no slot.
        session = await engine.open_session()
        visitor = house.talk("")
        assert await visitor.error_code() == "session_limit_reached"
        await visitor.closed()
        await session.close()
    assert names(tmp_path / "kept") == []


async def test_who_asks_to_be_recorded_does_not_talk_unrecorded(tmp_path: Path) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path, max_mb=1.0) as house:
        visitor = house.talk("")
        assert await visitor.error_code() == "recording_full"
        assert await visitor.closed() == (1008, "recording_full")
        house.conversations._recordings = None
        visitor = house.talk("")
        assert await visitor.error_code() == "recording_off"
        house.conversations._recordings = house.recordings
    (tmp_path / "file").write_text("no folder")
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path / "file" / "kept") as house:
        assert await house.talk("").error_code() == "recording_failed"
        assert house.admission.num_taken == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "there is no memory left"),
    ],
)
async def test_a_recorder_that_fails_ends_the_recording_and_not_the_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        visitor = house.talk("")
        started = await visitor.until("recording.started")
        await ask(visitor)
        events = house.store.find(started["recording_id"]) / "events.jsonl"
        while b'"completed"' not in events.read_bytes():
            await settle()

        def fails(writer: _Writer, fact: object) -> None:
            raise error

        monkeypatch.setattr(_Writer, "write", fails)
        visitor.append(silence(0.4))
        stopped = await visitor.until("recording.stopped")
        assert stopped["reason"] == "failed"
        assert reason in stopped["message"]
        assert str(tmp_path) not in stopped["message"]
        monkeypatch.undo()
        await ask(visitor)
        visitor.send("recording.stop")
        assert await visitor.error_code() == "recording_not_active"
        path = house.store.find(stopped["recording_id"])
        assert stopped["bytes"] == path.stat().st_size > 0
        with SessionFile(path) as file:
            assert file.is_complete
            assert [reply.text for reply in read_transcript(file).replies] == [REPLY.text]


async def test_a_limit_that_is_reached_ends_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.recordings.store.LEAST_ROOM_BYTES", 0)
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path, max_mb=0.1) as house:
        visitor = house.talk("")
        visitor.append(silence(5))
        stopped = await visitor.until("recording.stopped")
        assert stopped["reason"] == "failed"
        assert "0.1 MB" in stopped["message"]
        assert stopped["bytes"] <= 0.1e6
        await ask(visitor)


async def test_a_recording_is_nobody_elses_from_its_first_byte_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where somebody else made the folder: no mode is changed when others have looked."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(os, "chmod", refuse)
    mask = os.umask(0)
    try:
        async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
            visitor = house.talk("")
            started = await visitor.until("recording.started")
            live = house.store.find(started["recording_id"])
            assert live.stat().st_mode & 0o777 == 0o700
            await ask(visitor)
            await _stop(house, visitor)
            packed = house.store.find(started["recording_id"])
            assert packed.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(mask)


async def test_deleting_one_that_goes_on(tmp_path: Path) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        visitor = house.talk("")
        started = await visitor.until("recording.started")
        await ask(visitor)
        await house.recordings.delete(started["recording_id"])
        assert (await visitor.until("recording.stopped"))["reason"] == "deleted"
        assert names(tmp_path) == []
        await ask(visitor)
        assert names(tmp_path) == []


async def test_deleting_one_that_goes_on_at_another_server(tmp_path: Path) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        visitor = house.talk("Regretted")
        started = await visitor.until("recording.started")
        store(tmp_path).delete(started["recording_id"])
        visitor.append(tone(0.8))
        stopped = await visitor.until("recording.stopped")
        assert (stopped["reason"], stopped["bytes"]) == ("deleted", 0)
        assert names(tmp_path) == []
        await ask(visitor)


async def test_a_folder_that_cannot_be_read_ends_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the client is told, rather than left with a red light."""

    def refuses(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        visitor = house.talk("")
        started = await visitor.until("recording.started")
        await ask(visitor)
        monkeypatch.setattr("backend.recordings.store.size_of", refuses)
        visitor.send("recording.stop")
        stopped = await visitor.until("recording.stopped")
        monkeypatch.undo()
        assert stopped["reason"] == "failed"
        assert str(tmp_path) not in stopped["message"]
        assert not house.recordings.is_live(started["recording_id"])


async def test_a_recording_that_failed_is_abandoned(tmp_path: Path) -> None:
    engine = ScriptedEngine([REPLY])
    async with recorded_house(engine, tmp_path) as house:
        told: list[RecordingStopped] = []
        settings = SessionSettings(seed=1)
        live = await house.recordings.begin(settings, 512, "", told.append)
        live.recorder._give_up("the disk is too slow")
        while not told:
            await settle()
        await house.recordings.abandon(live)
        assert names(tmp_path) == []
        # Nor does it matter that there is nothing left.
        await house.recordings.abandon(live)


async def test_what_was_cut_off_is_found_again(tmp_path: Path) -> None:
    """As after `kill -9`: the folder as it was, and nobody who knows of it."""
    killed = tmp_path / "killed"
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path / "kept") as house:
        visitor = house.talk("Cut off")
        started = await visitor.until("recording.started")
        await ask(visitor)
        live = house.store.find(started["recording_id"])
        while len(live.joinpath("events.jsonl").read_bytes().splitlines()) < 12:
            await settle()
        shutil.copytree(tmp_path / "kept", killed)
    store = RecordingStore(StoreOptions(killed))
    store.tidy()
    assert store.ids() == [started["recording_id"]]
    with SessionFile(store.find(started["recording_id"])) as file:
        assert not file.is_complete
        assert [reply.text for reply in read_transcript(file).replies] == [REPLY.text]
        pack_copy(file, tmp_path / "packed")
    with SessionFile(tmp_path / "packed") as file:
        assert (file.is_complete, file.num_chunks) == (True, 4)
        assert [reply.text for reply in read_transcript(file).replies] == [REPLY.text]


# What only the conversation knows


def test_the_tracks_time_is_not_the_clients() -> None:
    timeline = Timeline()
    timeline.hear(CHUNK_SAMPLES)
    timeline.fill_chunk()
    assert timeline.track_seconds(0.3) == 0.3
    # 0.8 s are put in between, where the client's audio is 0.5 s long.
    timeline.hear(CHUNK_SAMPLES // 4)
    for _ in range(2):
        timeline.add_chunk()
    # What comes now follows them.
    assert timeline.track_seconds(0.5) == pytest.approx(1.3)
    timeline.hear(CHUNK_SAMPLES * 3 // 4)
    assert timeline.fill_chunk() == 0.8
    assert timeline.num_chunks == 4
    assert (timeline.track_seconds(0.3), timeline.track_seconds(0.5)) == (0.3, 1.3)
    # The client stops within a chunk, which is padded, and clears what came after.
    timeline.hear(CHUNK_SAMPLES // 2)
    assert timeline.pad_chunk() == 1.0
    timeline.hear(CHUNK_SAMPLES)
    assert timeline.fill_chunk() == 1.4
    assert timeline.track_seconds(0.9) == 1.7
    assert timeline.track_seconds(1.2) == 2.2
    timeline.hear(CHUNK_SAMPLES * 3)
    timeline.discard()
    timeline.hear(CHUNK_SAMPLES)
    assert timeline.fill_chunk() == pytest.approx(3.0)
    assert timeline.track_seconds(2.7) == pytest.approx(2.5)


async def test_a_spoken_reply_is_recorded_with_its_voice_and_its_barge_in(tmp_path: Path) -> None:
    cast = Cast()
    engine = ScriptedEngine([LONG])
    async with recorded_house(engine, tmp_path, voices=cast.voices) as house:
        visitor = house.talk("")
        visitor.send("session.update", session={"output_modalities": ["audio"]})
        visitor.append(np.concatenate([tone(0.8), silence(0.4)]))
        spoken = await visitor.until("response.output_audio.delta")
        ids = {"response_id": spoken["response_id"], "item_id": spoken["item_id"]}
        await visitor.until("response.output_audio.delta")
        # The page plays it from 1.3 s of its audio on.
        visitor.send("playback.ack", **ids, played_ms=100, audio_seconds=1.4)
        await visitor.until("playback.acknowledged")
        order = read_audio(SAMPLES / "order_large_dark_roast_americano.ogg")
        while not any(e.get("action") == "barge_in" for e in visitor.received):
            visitor.append(order[: SAMPLE_RATE_HZ // 20])
            order = order[SAMPLE_RATE_HZ // 20 :]
            await settle()
        (barge_in,) = (e for e in visitor.received if e.get("action") == "barge_in")
        onset = barge_in["metadata"]["onset_seconds"]
        visitor.send("playback.ack", **ids, played_ms=350, audio_seconds=onset + 0.2)
        await visitor.until("playback.acknowledged")
        with await house.stopped(visitor) as file:
            story = read_transcript(file)
            (reply,) = story.replies
            sound = file.reply_audio(0)
            (barge_in_kept,) = (r.barge_in for r in story.replies)
    assert reply.playback is not None
    assert reply.playback.starts_at_seconds == pytest.approx(1.3)
    assert reply.playback.played_ms == 350
    assert (reply.playback.voice, reply.playback.is_online) == ("edge:en", True)
    assert story.num_online_replies == 1
    assert len(sound) >= 0.4 * 24_000
    assert set(sound.tolist()) == {1 / 32_768}
    assert isinstance(barge_in_kept, BargeInRecord)
    assert barge_in_kept.onset_seconds == pytest.approx(onset, abs=0.001)
    assert barge_in_kept.silence_ms == pytest.approx(200, abs=1)


async def test_a_reply_that_is_stopped_before_it_sounds_has_left_all_the_same(
    tmp_path: Path,
) -> None:
    cast = Cast()
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path, voices=cast.voices) as house:
        visitor = house.talk("")
        visitor.send("session.update", session={"output_modalities": ["audio"]})
        cast.online.may_speak.clear()
        visitor.append(np.concatenate([tone(0.8), silence(0.8)]))
        while not cast.online.is_speaking:
            await settle()
        visitor.send("response.cancel")
        assert (await visitor.until("response.done"))["response"]["status"] == "cancelled"
        with await house.stopped(visitor) as file:
            story = read_transcript(file)
            assert file.reply_turns == []
    (reply,) = story.replies
    assert story.num_online_replies == 1
    assert reply.playback is not None
    assert (reply.playback.voice, reply.playback.played_ms) == ("edge:en", None)


async def test_an_offline_voice_lets_nothing_leave(tmp_path: Path) -> None:
    cast = Cast()
    engine = ScriptedEngine([REPLY])
    async with recorded_house(engine, tmp_path, voices=cast.voices) as house:
        visitor = house.talk("")
        session = {"output_modalities": ["audio"], "audio": {"output": {"voice": "espeak:en"}}}
        visitor.send("session.update", session=session)
        await ask(visitor)
        visitor.send("session.update", session={"audio": {"output": {"voice": "auto"}}})
        cast.online.fails_after_blocks = 0
        await ask(visitor)
        await ask(visitor)
        with await house.stopped(visitor) as file:
            played = [reply.playback for reply in read_transcript(file).replies]
    # The second was given to the online voice, which failed; the third was not any more.
    assert [(p.voice, p.is_online) for p in played if p] == [
        ("espeak:en", False),
        ("espeak:en", True),
        ("espeak:en", False),
    ]


async def test_latencies_count_from_the_end_of_speech(tmp_path: Path) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        visitor = house.talk("")
        order = read_audio(SAMPLES / "order_large_dark_roast_americano.ogg")
        visitor.append(np.concatenate([order, silence(1.6)]))
        done = (await visitor.until("response.done"))["response"]["metadata"]
        with await house.stopped(visitor) as file:
            latency = read_transcript(file).replies[0].latency
    waited = (float(done["seconds"]) - float(done["speech_end_seconds"])) * 1000
    assert latency is not None
    # No time passes here but that of the audio.
    assert latency.decision_ms == pytest.approx(waited, abs=1)
    assert latency.first_text_ms == pytest.approx(waited, abs=1)
    assert latency.first_sound_ms is None


async def test_a_recording_from_the_wire_is_verified(
    golden_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """With others in the batch, other settings, a request, a typed text and a stopped reply."""
    with Engine(golden_checkpoint, EngineConfig(num_slots=3, max_positions=512)) as engine:
        async with recorded_house(engine, tmp_path) as house:
            others = [house.talk(None), house.talk(None, Dialect.REALTIME)]
            visitor = house.talk("")
            for guest in (*others, visitor):
                guest.send("session.update", session={"max_output_tokens": 6, "temperature": 0.8})
            noise = np.concatenate(noise_chunks(18))
            for number, part in enumerate(np.split(noise, 3)):
                for guest in (*others, visitor):
                    guest.append(part)
                await _interfere(visitor, number)
            with await house.stopped(visitor) as file:
                story = read_transcript(file)
                verifier = Verifier(golden_checkpoint, file)
                for _ in verifier.verify():
                    pass
                records = list(file.records())
    outcome = verifier.outcome
    assert outcome.difference is None, outcome.difference
    assert outcome.ties == []
    assert outcome.num_decisions > 18
    assert outcome.num_tokens > 10
    assert any(decision.cause is Cause.REQUESTED for decision in story.decisions)
    assert any(reply.status is TurnStatus.CANCELLED for reply in story.replies)
    assert [r.text for r in records if isinstance(r, TypedRecord)] == ["Seven."]
    changes = [record for record in records if isinstance(record, SettingsRecord)]
    assert changes[-1].system_prompt == "Be brief."
    assert changes[-1].seed == 9


async def _interfere(visitor: Visitor, number: int) -> None:
    match number:
        case 0:
            session = {"instructions": "Be brief.", "seed": 9, "temperature": 1.2, "top_k": 20}
            visitor.send("session.update", session=session)
            await visitor.until("session.updated")
        case 1:
            item = {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "Seven."}],
            }
            visitor.send("conversation.item.create", item=item)
        case 2:
            visitor.send("session.update", session={"max_output_tokens": 60})
            while True:
                visitor.send("response.create")
                await visitor.until("response.done")
                if _num_deltas(visitor) > 10:
                    break
            # A reply may be over before it can be stopped.
            while not await _stops_a_reply(visitor):
                pass


def _num_deltas(visitor: Visitor) -> int:
    """Pieces of text so far, of at least a token each."""
    return sum(event["type"] == "response.output_text.delta" for event in visitor.received)


async def _stops_a_reply(visitor: Visitor) -> bool:
    """Have a reply begin, and stop it; returns whether it was let, and not over before."""
    visitor.send("response.create", response={"metadata": {"wanted": "yes"}})
    response: WireEvent = {"metadata": {}}
    while "wanted" not in response["metadata"]:
        event = await visitor.until("response.created", "error")
        if event["type"] == "error":
            # The model replies by itself. Who asks again at once is let go, after so many errors.
            await visitor.until("response.done")
            return False
        response = event["response"]
    visitor.send("barge_in")
    done: WireEvent = {"id": None}
    while done["id"] != response["id"]:
        done = (await visitor.until("response.done"))["response"]
    return bool(done["status"] == "cancelled")


# The folder


def store(folder: Path, **options: object) -> RecordingStore:
    return RecordingStore(StoreOptions(folder, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "recording_id",
    [
        "",
        "..",
        "../" * 4 + "etc/passwd",
        "a" * 31,
        "a" * 33,
        "a" * 31 + "/",
        "ä" * 32,
        "a" * 31 + "\n",
    ],
)
def test_only_an_id_names_a_recording(tmp_path: Path, recording_id: str) -> None:
    for ask_for in (store(tmp_path).find, store(tmp_path).delete, store(tmp_path).find_shared):
        with pytest.raises(RecordingError, match=r"no such recording|link has ended"):
            ask_for(recording_id)


def test_links_end_by_themselves_and_with_what_they_lead_to(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    options = StoreOptions(tmp_path / "kept", may_share=True)
    kept = RecordingStore(options, lambda: now)
    (one, path), (other, other_path) = kept.new_path(), kept.new_path()
    path.write_bytes(b"one")
    other_path.write_bytes(b"other")
    share_id, share = kept.share(one, 2)
    lasting_id, _ = kept.share(one, 48)
    other_id, _ = kept.share(other, 48)
    assert kept.find_shared(share_id) == path
    assert set(kept.shares_of(one)) == {share_id, lasting_id}
    assert share.expires_at == now + timedelta(hours=2)
    # Another server over the same folder knows them; one that allows none does not.
    assert RecordingStore(options, lambda: now).find_shared(share_id) == path
    with pytest.raises(RecordingError, match="link has ended"):
        RecordingStore(StoreOptions(tmp_path / "kept"), lambda: now).find_shared(share_id)
    now += timedelta(hours=2)
    with pytest.raises(RecordingError, match="link has ended"):
        kept.find_shared(share_id)
    kept.delete(one)
    with pytest.raises(RecordingError, match="link has ended"):
        kept.find_shared(lasting_id)
    kept.end_share(other, other_id)
    with pytest.raises(RecordingError, match="link has ended"):
        kept.find_shared(other_id)
    assert json.loads((tmp_path / "kept" / "shares.json").read_text()) == {}


def test_links_are_refused(tmp_path: Path) -> None:
    kept = store(tmp_path)
    recording_id, path = kept.new_path()
    path.write_bytes(b"")
    with pytest.raises(RecordingError) as refused:
        kept.share(recording_id, 1)
    assert refused.value.code == "sharing_off"
    kept = store(tmp_path, may_share=True)
    for hours in (0, -1, 721):
        with pytest.raises(RecordingError, match="1 to 720 hours"):
            kept.share(recording_id, hours)
    (tmp_path / "shares.json").write_text("{")
    with pytest.raises(RecordingError, match="cannot be read"):
        kept.share(recording_id, 1)


def test_leftovers_are_tidied_away(tmp_path: Path) -> None:
    kept = store(tmp_path)
    recording_id, path = kept.new_path()
    path.write_bytes(b"packed")
    live = tmp_path / f"{path.name}.live"
    live.mkdir()
    (live / "events.jsonl").write_text("")
    for age, name in ((7200, "old"), (0, "new")):
        part = tmp_path / f"{name}.aisession.part"
        part.write_bytes(b"part")
        then = part.stat().st_mtime - age
        os.utime(part, (then, then))
    (tmp_path / "somebody's.txt").write_text("not ours")
    kept.tidy()
    assert kept.ids() == [recording_id]
    assert names(tmp_path) == sorted([path.name, "new.aisession.part", "somebody's.txt"])


async def test_the_command_lists_and_deletes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with recorded_house(ScriptedEngine([REPLY]), tmp_path) as house:
        ids = []
        for title in ("A \x1b[31mred\x1b[0m one", "Another"):
            visitor = house.talk(title)
            await ask(visitor)
            ids.append((await _stop(house, visitor))["recording_id"])
    command = ["recordings", "--recordings", str(tmp_path)]
    assert app.main(command) == 0
    listed = capsys.readouterr().out
    assert "\x1b" not in listed
    assert "Another" in listed
    assert "2 recordings" in listed
    assert app.main([*command, "--json"]) == 0
    fields = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(field["name"] for field in fields) == sorted(ids)
    assert {field["num_replies"] for field in fields} == {1}
    assert app.main([*command, "--delete", ids[0]]) == 0
    assert names(tmp_path) == [f"{ids[1]}.aisession"]
    assert app.main([*command, "--delete", ids[0]]) == EXIT_ERROR
    assert f"{ids[0]}: there is no such recording" in capsys.readouterr().err
    assert app.main([*command, "--delete-all"]) == 0
    assert names(tmp_path) == []


def test_the_listing_goes_on_where_one_is_deleted_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store(tmp_path)
    recording_id, path = kept.new_path()
    path.write_bytes(b"no recording")
    monkeypatch.setattr(RecordingStore, "ids", lambda _: ["a" * 32, recording_id])
    assert app.main(["recordings", "--recordings", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert recording_id in listed
    assert "1 recording," in listed


def test_links_are_nobody_elses_on_this_machine(tmp_path: Path) -> None:
    kept = store(tmp_path, may_share=True)
    recording_id, path = kept.new_path()
    path.write_bytes(b"")
    kept.share(recording_id, 1)
    assert (tmp_path / "shares.json").stat().st_mode & 0o777 == 0o600


async def _stop(house: RecordedHouse, visitor: Visitor) -> WireEvent:
    visitor.send("recording.stop")
    return await visitor.until("recording.stopped")


# Several servers of one folder


def going_on(kept: RecordingStore, checkpoint: Checkpoint) -> Recorder:
    """A recording in which two chunks were heard, and which has not ended."""
    _, path = kept.new_path()
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    manifest = describe(checkpoint, SessionSettings(), core.max_positions)
    recorder = Recorder(path, manifest, lambda _: None, take_room=kept.take_room)
    session = core.open(SessionSettings(), recorder)
    for chunk in noise_chunks(2):
        core.hear(session, chunk)
    run(core)
    return recorder


def test_no_server_tidies_away_or_packs_what_another_one_records(
    tmp_path: Path, embedded_checkpoint: Checkpoint
) -> None:
    mine, other = store(tmp_path), store(tmp_path)
    recorder = going_on(mine, embedded_checkpoint)
    (recording_id,) = other.unpacked()
    other.tidy()
    other.pack(recording_id, lambda *_: pytest.fail("it is packed while it goes on"))
    assert (other.is_held(recording_id), other.ids()) == (True, [recording_id])
    recorder.close()
    assert (other.is_held(recording_id), other.unpacked()) == (False, [])
    with SessionFile(other.find(recording_id)) as file:
        assert (file.is_complete, file.num_chunks) == (True, 2)


def test_what_another_server_deletes_is_gone_and_does_not_come_back(
    tmp_path: Path, embedded_checkpoint: Checkpoint
) -> None:
    mine, other = store(tmp_path), store(tmp_path)
    recorder = going_on(mine, embedded_checkpoint)
    (recording_id,) = other.ids()
    other.delete(recording_id)
    recorder.hears(noise_chunks(1)[0])
    assert recorder.close() is None
    assert recorder.failure is not None
    assert names(tmp_path) == []


def test_servers_of_one_folder_lose_no_link_of_each_others(tmp_path: Path) -> None:
    stores = [store(tmp_path, may_share=True) for _ in range(2)]
    ids = []
    for each in stores:
        recording_id, path = each.new_path()
        path.write_bytes(b"")
        ids.append(recording_id)
    with ThreadPoolExecutor() as threads:
        made = [
            threads.submit(each.share, recording_id, 1)
            for _ in range(10)
            for each, recording_id in zip(stores, ids, strict=True)
        ]
        links = {link.result()[0] for link in made}
    assert links == {*stores[0].shares_of(ids[0]), *stores[1].shares_of(ids[1])}
    assert all(stores[1].find_shared(link).exists() for link in links)


def test_servers_of_one_folder_share_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = store(tmp_path, max_mb=5.0), store(tmp_path, max_mb=5.0)
    mine.new_path()
    other.new_path()[1].write_bytes(bytes(4_900_000))
    monkeypatch.setattr("backend.recordings.store.COUNT_SECONDS", 0.0)
    with pytest.raises(OSError, match="have reached 5 MB"):
        mine.take_room(200_000)


def test_what_was_cut_off_is_packed_when_there_is_room_again(
    tmp_path: Path, embedded_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def pack(folder: Path, packed: Path) -> None:
        with SessionFile(folder) as file:
            pack_copy(file, packed)

    kept = store(tmp_path)
    recorder = going_on(kept, embedded_checkpoint)
    monkeypatch.setattr("backend.recordings.recorder.pack", full)
    assert recorder.close() is None
    (recording_id,) = kept.unpacked()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=0))
    kept.pack(recording_id, pack)
    assert kept.unpacked() == [recording_id]
    monkeypatch.undo()
    kept.pack(recording_id, pack)
    assert names(tmp_path) == [f"{recording_id}.aisession"]
    assert kept.find(recording_id).stat().st_mode & 0o777 == 0o600
    with SessionFile(kept.find(recording_id)) as file:
        assert (file.is_complete, file.num_chunks) == (True, 2)
