"""Recorded conversations: written as they happen, read with suspicion."""

import errno
import json
import os
import queue
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

import app
from backend.audio import float_to_pcm16, pcm16_to_float
from backend.config import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    ONLY_WHEN_ASKED,
    SAMPLE_RATE_HZ,
    SPEECH_RATE_HZ,
    EngineConfig,
    SamplingConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore
from backend.errors import SessionFileError
from backend.events import Decision
from backend.model.checkpoint import Checkpoint
from backend.recordings import reader
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import MAX_OPEN_REPLIES, Recorder, _Writer, describe
from backend.recordings.records import (
    BargeInRecord,
    DecisionRecord,
    LatencyRecord,
    PlaybackRecord,
    SettingsRecord,
    TokenRecord,
    TypedRecord,
)
from backend.recordings.transcript import read_transcript
from backend.trace import Cause, TracedDecision
from tests.conftest import SAMPLES
from tests.recording import noise_chunks, record, refuse_notices, rewrite, run

REPOSITORY = Path(__file__).parents[1]
WAIT_SECONDS = 60.0
DRAWN = SessionSettings(
    sampling=SamplingConfig(temperature=1.0, top_k=50),
    seed=7,
    max_reply_tokens=12,
    decision_bias=3.0,
)


@pytest.fixture(scope="module")
def packed(golden_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "noise.aisession"
    return record(golden_checkpoint, path, DRAWN, noise_chunks(12))


def test_replies_are_not_all_held_open(golden_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A process may have about a thousand files open, and an hour has more replies than that."""
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1, max_positions=512))
    path = tmp_path / "talkative.aisession"
    manifest = describe(golden_checkpoint, DRAWN, core.max_positions)
    num_open: list[int] = []

    def count_open(_: int) -> None:
        open_files = psutil.Process().open_files()
        num_open.append(sum(file.path.endswith(".pcm") for file in open_files))

    recorder = Recorder(path, manifest, refuse_notices, take_room=count_open)
    session = core.open(replace(DRAWN, max_reply_tokens=2), recorder)
    pieces = [np.full(100, turn, "<i2").tobytes() for turn in range(20)]
    for turn, chunk in enumerate(noise_chunks(20)):
        core.request_reply(session)
        core.hear(session, chunk)
        run(core)
        recorder.reply_audio(turn, pieces[turn])
        # What was said before may come late.
        recorder.reply_audio(0, pieces[turn])
    core.close(session)
    assert recorder.close() == path
    assert max(num_open) == 1 + MAX_OPEN_REPLIES
    with SessionFile(path) as file:
        assert file.reply_turns == list(range(20))
        first = pcm16_to_float(pieces[0] + b"".join(pieces))
        np.testing.assert_array_equal(file.reply_audio(0), first)
        np.testing.assert_array_equal(file.reply_audio(19), pcm16_to_float(pieces[19]))


def open_below(folder: Path) -> list[str]:
    """The files in a folder that this process has open."""
    opened = psutil.Process().open_files()
    return [file.path for file in opened if Path(file.path).is_relative_to(folder.resolve())]


@pytest.mark.parametrize("failing", ["the first track", "the thread"])
def test_a_recording_that_cannot_begin_leaves_nothing_open_or_behind(
    golden_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    def fail(*_: object) -> None:
        if failing == "the thread":
            raise RuntimeError("can't start new thread")
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = (
        (threading.Thread, "start") if failing == "the thread" else (_Writer, "_open_track")
    )
    monkeypatch.setattr(owner, name, fail)
    manifest = describe(golden_checkpoint, DRAWN, 512)
    with pytest.raises(SessionFileError, match="cannot be written"):
        Recorder(tmp_path / "none.aisession", manifest, refuse_notices)
    assert not open_below(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["packed", "could not be written", "could not be packed"])
def test_a_recording_that_has_ended_holds_nothing_open(
    golden_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    has_room = ending != "could not be written"

    def take_room(num_bytes: int) -> None:
        if not has_room and num_bytes == 2:
            raise OSError(errno.EDQUOT, "Quota exceeded")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if ending == "could not be packed":
        monkeypatch.setattr("backend.recordings.recorder.pack", fail)
    notices: list[str] = []
    path = tmp_path / "ended.aisession"
    manifest = describe(golden_checkpoint, DRAWN, 512)
    recorder = Recorder(path, manifest, notices.append, take_room=take_room)
    recorder.hears(np.zeros(CHUNK_SAMPLES, np.float32))
    for turn in range(20):
        recorder.reply_audio(turn, bytes(200))
    recorder.reply_audio(20, bytes(2))
    assert (recorder.close() is None) == (ending != "packed")
    assert len(notices) == (ending != "packed")
    assert not open_below(tmp_path)
    # No chunk was decided on: there is nothing to keep, and no folder that cannot be read.
    assert recorder.folder.exists() == (ending == "could not be packed")
    assert not list(tmp_path.rglob("packed"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (MemoryError(), "there is no memory left"),
        (AttributeError("'NoneType' object has no attribute 'write'"), "it broke"),
    ],
)
@pytest.mark.parametrize("where", ["in its own thread", "in the engine's"])
def test_whatever_breaks_a_recorder_is_told_and_the_rest_is_packed(
    golden_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
    reason: str,
) -> None:
    def fail(*_: object) -> Any:
        raise error

    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1, max_positions=512))
    path = tmp_path / "broken.aisession"
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    recorder = Recorder(path, describe(golden_checkpoint, DRAWN, 512), told.put)
    session = core.open(replace(DRAWN, max_reply_tokens=2), recorder)
    chunks = noise_chunks(6)
    for number, chunk in enumerate(chunks):
        if number == 4:
            while (recorder.folder / "events.jsonl").read_bytes().count(b'"decision"') < number:
                time.sleep(0.01)
            if where == "in its own thread":
                monkeypatch.setattr(_Writer, "write", fail)
            else:
                monkeypatch.setattr("backend.recordings.recorder.float_to_pcm16", fail)
        core.hear(session, chunk)
        run(core)
    # Before anybody closes it.
    assert reason in told.get(timeout=WAIT_SECONDS)
    monkeypatch.undo()
    assert session.num_chunks_heard == len(chunks), "the conversation goes on"
    core.close(session)
    assert recorder.close() == path
    assert recorder.failure is not None
    assert not recorder.folder.exists()
    assert told.empty()
    with SessionFile(path) as file:
        assert (file.is_complete, file.num_chunks) == (True, 4)


def test_more_replies_than_a_reader_takes_end_the_recording(
    golden_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.recordings.recorder.MAX_REPLY_TRACKS", 3)
    notices: list[str] = []
    manifest = describe(golden_checkpoint, DRAWN, 512)
    recorder = Recorder(tmp_path / "talkative.aisession", manifest, notices.append)
    for turn in range(4):
        recorder.reply_audio(turn, bytes(200))
    recorder.close()
    (notice,) = notices
    assert "more replies were spoken than a recording may hold" in notice


def test_everything_that_is_recorded_is_read_back(
    golden_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1, max_positions=512))
    path = tmp_path / "all.aisession"
    manifest = describe(golden_checkpoint, DRAWN, core.max_positions, title="All of it")
    recorder = Recorder(path, manifest, refuse_notices)
    session = core.open(DRAWN, recorder)
    chunks = noise_chunks(6, seed=1)
    for number, chunk in enumerate(chunks):
        if number == 2:
            core.change_settings(session, replace(DRAWN, decision_bias=ONLY_WHEN_ASKED))
            core.request_reply(session)
        core.hear(session, chunk)
        run(core)
    recorder.note(TypedRecord(at=recorder.now(), chunk=4, text="Hello?"))
    recorder.note(PlaybackRecord(at=recorder.now(), turn=0, starts_at_seconds=1.0, played_ms=300))
    recorder.note(BargeInRecord(at=recorder.now(), turn=0, onset_seconds=1.3, silence_ms=180))
    recorder.note(LatencyRecord(at=recorder.now(), turn=0, decision_ms=90, first_sound_ms=400))
    voice = (np.sin(np.arange(24_000) / 30) * 8_000).astype("<i2")
    recorder.reply_audio(0, voice[:10_000].tobytes())
    recorder.reply_audio(0, voice[10_000:].tobytes())
    core.close(session)
    assert recorder.close() == path
    assert not recorder.folder.exists()

    with SessionFile(path) as file:
        assert file.manifest == manifest
        assert file.manifest.settings() == replace(
            DRAWN, system_prompt=golden_checkpoint.system_prompt
        )
        assert file.is_complete
        heard = [pcm16_to_float(float_to_pcm16(chunk)) for chunk in chunks]
        np.testing.assert_array_equal(list(file.chunks()), heard)
        np.testing.assert_array_equal(file.reply_audio(0), pcm16_to_float(voice.tobytes()))
        records = list(file.records())
        decisions = [r for r in records if isinstance(r, DecisionRecord)]
        assert [decision.chunk for decision in decisions] == list(range(6))
        assert decisions[2].cause is Cause.REQUESTED
        assert [d.speak for d in decisions[3:]] == [False] * 3
        for decision in decisions:
            assert 0 <= decision.arrived <= decision.at
            silence, speech = decision.logits
            odds = np.exp(speech - silence)
            assert decision.probability == pytest.approx(odds / (1 + odds), abs=1e-5)
        (changed,) = [r for r in records if isinstance(r, SettingsRecord)]
        assert changed.settings() == replace(
            DRAWN, decision_bias=ONLY_WHEN_ASKED, system_prompt=golden_checkpoint.system_prompt
        )
        story = read_transcript(file)
        assert [typed.text for typed in story.typed] == ["Hello?"]
        reply = story.replies[0]
        assert (reply.barge_in is None, reply.playback is None, reply.latency is None) == (
            False,
            False,
            False,
        )


def test_the_tokens_are_those_of_the_session(golden_checkpoint: Checkpoint, packed: Path) -> None:
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1))
    session = core.open(DRAWN)
    for chunk in noise_chunks(12):
        core.hear(session, pcm16_to_float(float_to_pcm16(chunk)))
    run(core)
    with SessionFile(packed) as file:
        recorded = [
            record.token
            for record in file.records()
            if isinstance(record, DecisionRecord | TokenRecord)
        ]
        replies = read_transcript(file).replies
    assert recorded == [token for chunk in session.context for token in chunk.tokens]
    assert len(replies) > 1, "the noise was answered"


def test_a_recording_takes_no_place_of_another(golden_checkpoint: Checkpoint, packed: Path) -> None:
    manifest = describe(golden_checkpoint, DRAWN, 512)
    with pytest.raises(SessionFileError, match="exists already"):
        Recorder(packed, manifest, refuse_notices)
    with pytest.raises(SessionFileError, match="cannot be written"):
        Recorder(packed / "inside.aisession", manifest, refuse_notices)


def test_a_recording_in_progress_can_be_read(golden_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "live.aisession"
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1))
    recorder = Recorder(path, describe(golden_checkpoint, DRAWN, 512), refuse_notices)
    session = core.open(DRAWN, recorder)
    for chunk in noise_chunks(5):
        core.hear(session, chunk)
    run(core)
    deadline = time.monotonic() + WAIT_SECONDS
    while (file := SessionFile(recorder.folder)).num_chunks < 5:
        assert time.monotonic() < deadline
    assert not file.is_complete
    assert len(list(file.chunks())) == 5
    with pytest.raises(SessionFileError, match=r"live\.aisession\.live"):
        SessionFile(path)
    # Cut off within a record and within a chunk, as after a crash.
    core.close(session)
    recorder.close()
    folder = tmp_path / "crashed"
    (folder / "replies").mkdir(parents=True)
    with zipfile.ZipFile(path) as archive:
        (folder / "manifest.json").write_bytes(archive.read("manifest.json"))
        (folder / "events.jsonl").write_bytes(archive.read("events.jsonl")[:-60])
    sound = np.concatenate(noise_chunks(5))
    (folder / "microphone.pcm").write_bytes(float_to_pcm16(sound)[: 4 * 2 * CHUNK_SAMPLES + 17])
    crashed = SessionFile(folder)
    assert (crashed.num_chunks, len(list(crashed.chunks()))) == (4, 4)
    assert [r.chunk for r in crashed.records() if isinstance(r, DecisionRecord)] == [0, 1, 2, 3]


def test_a_killed_process_leaves_all_but_the_last_second(tmp_path: Path) -> None:
    path = tmp_path / "killed.aisession"
    sample = str(SAMPLES / "order_small_latte_double_shot.ogg")
    arguments = ["listen", sample, "--record", str(path), "--json", "--realtime"]
    process = subprocess.Popen(
        [sys.executable, "app.py", *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    num_decisions = 0
    while num_decisions < 8:
        num_decisions += json.loads(process.stdout.readline())["event"] == "decision"
    process.send_signal(signal.SIGKILL)
    assert process.wait(WAIT_SECONDS) == -signal.SIGKILL
    process.stdout.close()
    with SessionFile(path.with_name(path.name + ".live")) as file:
        assert file.num_chunks >= num_decisions - 1 / CHUNK_SECONDS
        assert not file.is_complete
        assert len(list(file.chunks())) == file.num_chunks


@pytest.fixture
def full_disk() -> Iterator[None]:
    """A limit on a file's size stands for the disk; the system tells both alike."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_ends_the_recording_and_not_the_conversation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "full.aisession"
    sample = str(SAMPLES / "digit_seven.ogg")
    # In real time, so that some of it is decided on before the disk is full.
    given = ["listen", sample, "--json", "--realtime", "--record", str(path)]
    assert app.main(given) == 0
    output, errors = capsys.readouterr()
    events = [json.loads(line) for line in output.splitlines()]
    num_decisions = sum(event["event"] == "decision" for event in events)
    assert errors.count("the conversation goes on: File too large") == 1
    assert events[-1]["event"] == "decision"
    assert not path.with_name(path.name + ".live").exists()
    with SessionFile(path) as file:
        assert num_decisions > file.num_chunks > 1
        assert file.num_chunks <= 40_000 // (2 * CHUNK_SAMPLES)
        assert len(list(file.records())) >= file.num_chunks


def test_a_disk_that_is_too_slow_ends_the_recording(
    golden_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.recordings.recorder.MAX_WAITING", 4)
    release = hold_writes(monkeypatch)
    notices: list[str] = []
    path = tmp_path / "slow.aisession"
    recorder = Recorder(path, describe(golden_checkpoint, DRAWN, 512), notices.append)
    chunk = np.zeros(CHUNK_SAMPLES, np.float32)
    for _ in range(10):
        recorder.hears(chunk)
    assert len(notices) == 1
    assert "too slow" in notices[0]
    assert not recorder.is_recording
    release()
    # Nothing was decided on.
    assert recorder.close() is None
    assert not recorder.folder.exists()


def test_more_events_than_a_reader_takes_end_the_recording(
    golden_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.recordings.recorder.MAX_EVENTS_BYTES", 1000)
    notices: list[str] = []
    path = tmp_path / "eventful.aisession"
    recorder = Recorder(path, describe(golden_checkpoint, DRAWN, 512), notices.append)
    recorder.hears(np.zeros(CHUNK_SAMPLES, np.float32))
    decision = Decision(0, False, 0.01, 0.5, 5.0, 100, 512)
    recorder.decided(TracedDecision(decision, 151605, (3.0, -2.0), Cause.DRAWN))
    for _ in range(100):
        recorder.note(TypedRecord(at=0.0, chunk=0, text="again"))
    assert recorder.close() == path
    (notice,) = notices
    assert "more has happened than a recording may hold" in notice
    with SessionFile(path) as file:
        assert 5 < len(list(file.records())) < 100


def hold_writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Nothing is written until the returned function is called."""
    gate = threading.Event()
    write = _Writer.write

    def write_later(writer: _Writer, fact: Any) -> None:
        gate.wait(30)
        write(writer, fact)

    monkeypatch.setattr(_Writer, "write", write_later)
    return gate.set


def test_twenty_minutes_are_recorded_in_little_memory_and_time(
    golden_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    num_chunks = 3_000
    path = tmp_path / "long.aisession"
    manifest = describe(golden_checkpoint, DRAWN, 512)
    sounds = noise_chunks(8)
    tracemalloc.start()
    recorder = Recorder(path, manifest, refuse_notices)
    spent = 0.0
    for number in range(num_chunks):
        decision = Decision(number, False, 0.01, 0.5, 5.0, 100, 512)
        traced = TracedDecision(decision, 151605, (3.0, -2.0), Cause.DRAWN)
        began = time.thread_time()
        recorder.hears(sounds[number % 8])
        recorder.decided(traced)
        spent += time.thread_time() - began
        recorder.catch_up()
    assert recorder.close() == path
    with SessionFile(path) as file:
        assert file.num_chunks == num_chunks
        assert file.seconds == 1200
        assert sum(1 for _ in file.chunks()) == num_chunks
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The sound alone has 38 MB.
    assert peak_bytes < 32 * 1024**2
    # Allocations are traced here, which makes them several times slower.
    assert spent / num_chunks < 0.03 * CHUNK_SECONDS


def flac(samples: np.ndarray, rate_hz: int = SAMPLE_RATE_HZ, subtype: str = "PCM_16") -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate_hz, subtype, format="FLAC")
    return file.getvalue()


def set_field(members: dict[str, bytes], name: str, value: object) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest[name] = value
    members["manifest.json"] = json.dumps(manifest).encode()


def replace_events(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        assert old in members["events.jsonl"]
        members["events.jsonl"] = members["events.jsonl"].replace(old, new, 1)

    return edit


def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.__setitem__(name, content)


SILENCE = np.zeros(12 * CHUNK_SAMPLES, np.int16)
BAD_BUNDLES: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "another version": (
        lambda m: set_field(m, "version", 3),
        "is of version 3; .* versions 1 and 2",
    ),
    "no version": (lambda m: set_field(m, "version", None), "is of version None"),
    "another format": (lambda m: set_field(m, "format", "zip"), "no recorded conversation"),
    "a field too many": (
        lambda m: set_field(m, "path", "/etc"),
        "manifest.json is impossible: path",
    ),
    "a rate of its own": (lambda m: set_field(m, "sample_rate_hz", 8000), "sample_rate_hz"),
    "an impossible seed": (lambda m: set_field(m, "seed", -1), "impossible: seed"),
    "an endless number": (
        lambda m: set_field(m, "seed", 10**400),
        "manifest.json is impossible: seed",
    ),
    "a manifest that is no mapping": (put("manifest.json", b"[]"), "no recorded conversation"),
    "a manifest that is no JSON": (put("manifest.json", b"{"), "not JSON"),
    "a deep manifest": (put("manifest.json", b"[" * 200_000), "not JSON"),
    "a huge manifest": (put("manifest.json", b" " * 2_000_000), "manifest.json is larger"),
    "no manifest": (lambda m: m.pop("manifest.json"), "holds no manifest.json"),
    "no events": (lambda m: m.pop("events.jsonl"), "holds no events.jsonl"),
    "no audio": (lambda m: m.pop("microphone.flac"), "holds no microphone.flac"),
    "events that end early": (
        lambda m: put("events.jsonl", m["events.jsonl"][:-80])(m),
        "events.jsonl is impossible|ends early",
    ),
    "events without an end": (
        lambda m: put("events.jsonl", b"\n".join(m["events.jsonl"].splitlines()[:-1]) + b"\n")(m),
        "ends early",
    ),
    "events after the end": (
        lambda m: put("events.jsonl", m["events.jsonl"] + m["events.jsonl"].splitlines()[-1])(m),
        "goes on after its end",
    ),
    "a long line": (put("events.jsonl", b" " * 1_000_000), "line 1 .* is longer"),
    "a deep line": (put("events.jsonl", b'{"type":' * 10_000), "line 1 .* is impossible"),
    "an unknown record": (replace_events(b'"decision"', b'"guess"'), "line 1 .* is impossible"),
    "a chunk left out": (
        replace_events(b'"chunk":1,', b'"chunk":2,'),
        "on chunk 2, where 1",
    ),
    "a token of no reply": (replace_events(b'"turn":0', b'"turn":5'), "continues reply 5"),
    "a number that is none": (replace_events(b'"chunk":0,', b'"chunk":NaN,'), "is impossible"),
    "a text for a number": (replace_events(b'"chunk":0,', b'"chunk":"0",'), "chunk"),
    "audio of another rate": (put("microphone.flac", flac(SILENCE, 44_100)), "44100 Hz"),
    "audio in stereo": (put("microphone.flac", flac(np.stack([SILENCE] * 2, 1))), "2 channels"),
    "audio in 24 bits": (put("microphone.flac", flac(SILENCE, subtype="PCM_24")), "s32"),
    "audio that is shorter": (put("microphone.flac", flac(SILENCE[:CHUNK_SAMPLES])), "holds 1"),
    "audio with a rest": (put("microphone.flac", flac(SILENCE[:-1])), "whole chunk"),
    "audio that is none": (put("microphone.flac", b"RIFF" * 100), "damaged"),
    "audio that is cut off": (
        lambda m: put("microphone.flac", m["microphone.flac"][:90_000])(m),
        "microphone.flac|its audio holds",
    ),
    "a reply that there is not": (put("replies/009999.flac", flac(SILENCE, 24_000)), "reply 9999"),
    "a path that climbs out": (put("../../evil.sh", b"echo"), "'../../evil.sh', which does not"),
    "an absolute path": (put("/etc/passwd", b"root"), "does not belong"),
    "a script beside": (put("index.html", b"<script>"), "does not belong"),
    "a reply's name that climbs": (put("replies/../../a.flac", b""), "does not belong"),
}


@pytest.mark.parametrize("name", BAD_BUNDLES)
def test_what_cannot_be_is_refused_in_a_sentence(packed: Path, tmp_path: Path, name: str) -> None:
    edit, expected = BAD_BUNDLES[name]
    path = rewrite(packed, tmp_path / "bad.aisession", edit)
    with pytest.raises(SessionFileError, match=expected) as refusal:
        SessionFile(path)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert message.count(str(path)) == 1
    assert "\n" not in message
    assert len(message) < 400
    assert os.listdir(tmp_path) == ["bad.aisession"]


def test_broken_files_are_refused_in_a_sentence(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    bad = {
        "truncated": content[:-1000],
        "half": content[: len(content) // 2],
        "empty": b"",
        "text": b"hello",
        "one byte changed": content[:3000] + bytes([content[3000] ^ 1]) + content[3001:],
        "many members": many_members(),
        "a directory that lies": content[:-22] + lying_end(content[-22:]),
    }
    for name, broken in bad.items():
        path = tmp_path / name
        path.write_bytes(broken)
        with pytest.raises(SessionFileError, match=name):
            SessionFile(path)
    for path in (tmp_path / "missing", tmp_path / ("long" * 100), Path("zero\0")):
        with pytest.raises(SessionFileError):
            SessionFile(path)
    with pytest.raises(SessionFileError, match=r"holds no file manifest\.json"):
        SessionFile(tmp_path)


def many_members() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(70_000):
            archive.writestr(f"{number}", b"")
    return file.getvalue()


def lying_end(end: bytes) -> bytes:
    """The end of a zip file whose directory is said to be of 2 GB."""
    fields = list(struct.unpack("<4s4H2LH", end))
    fields[5] = 2**31
    return struct.pack("<4s4H2LH", *fields)


def test_a_bomb_is_refused_before_it_is_unpacked(packed: Path, tmp_path: Path) -> None:
    """600 MB of events in 600 KB: no more memory is used than for any other."""
    path = tmp_path / "bomb.aisession"
    with (
        zipfile.ZipFile(packed) as archive,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bomb,
    ):
        bomb.writestr("manifest.json", archive.read("manifest.json"))
        with bomb.open("events.jsonl", "w") as events:
            for _ in range(100):
                events.write(b"\n" * 1024**2)
        bomb.writestr("microphone.flac", archive.read("microphone.flac"))
    tracemalloc.start()
    with pytest.raises(SessionFileError, match="larger than any"):
        SessionFile(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    tracemalloc.stop()


def test_a_bomb_of_silence_is_no_reply(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLAC has minutes of silence in a few bytes."""
    monkeypatch.setattr(reader, "MAX_REPLY_SECONDS", 60)
    flac = BytesIO()
    silence = np.zeros(61 * SPEECH_RATE_HZ, np.int16)
    soundfile.write(flac, silence, SPEECH_RATE_HZ, "PCM_16", format="FLAC")
    assert len(flac.getvalue()) < 20_000
    path = rewrite(
        packed,
        tmp_path / "bomb.aisession",
        lambda members: members.update({"replies/000000.flac": flac.getvalue()}),
    )
    with SessionFile(path) as file, pytest.raises(SessionFileError, match="longer than any"):
        file.reply_audio(0)


def test_a_link_in_a_folder_is_not_followed(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    with zipfile.ZipFile(packed) as archive:
        (folder / "manifest.json").write_bytes(archive.read("manifest.json"))
    (folder / "events.jsonl").symlink_to("/etc/passwd")
    with pytest.raises(SessionFileError, match=r"holds no file events\.jsonl"):
        SessionFile(folder)


def test_the_limits_leave_room_for_what_is_recorded() -> None:
    assert reader.MAX_CHUNKS * CHUNK_SAMPLES * 2 < reader.MAX_AUDIO_BYTES


def test_half_a_day_of_constant_talk_fits() -> None:
    """By the lines of a real conversation: 20 tokens a second, which no voice can say."""
    path = Path(__file__).parents[1] / "assets/gallery/conversation.aisession"
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("events.jsonl").splitlines(keepends=True)
    decisions = [len(line) for line in lines if b'"type":"decision"' in line]
    tokens = [len(line) for line in lines if b'"type":"token"' in line]
    # The numbers of its chunks and turns are smaller than those of a long one.
    decision_bytes, token_bytes = np.mean(decisions) + 8, np.mean(tokens) + 2
    seconds = reader.MAX_HOURS * 3600
    needed = reader.MAX_CHUNKS * decision_bytes + 20 * seconds * token_bytes
    assert needed < reader.MAX_EVENTS_BYTES


@pytest.mark.parametrize(
    "line",
    [
        b'{"at":0,"type":"typed","chunk":0,"text":""}\n',
        b'{"at":0,"type":"settings","system_prompt":"","seed":0,"drawing":'
        b'{"temperature":0,"top_k":1,"max_reply_tokens":1}}\n',
    ],
)
def test_short_lines_that_take_much_memory_are_bounded(
    line: bytes, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_CHUNKS", 1000)

    def talk(members: dict[str, bytes]) -> None:
        members["events.jsonl"] = 1001 * line + members["events.jsonl"]

    path = rewrite(packed, tmp_path / "bomb.aisession", talk)
    with pytest.raises(SessionFileError, match="more often than there are chunks in 12 hours"):
        SessionFile(path)
