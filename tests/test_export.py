"""Exports: what is in them, and that nothing in a recording can break out of them."""

import json
import os
import re
import shutil
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import sync_playwright

import app
from backend.audio import float_to_pcm16
from backend.cli import EXIT_ERROR
from backend.config import (
    CHUNK_SAMPLES,
    SAMPLE_RATE_HZ,
    SPEECH_RATE_HZ,
    SamplingConfig,
    SessionSettings,
)
from backend.errors import SessionFileError
from backend.events import Decision, TurnStatus
from backend.model.checkpoint import Checkpoint
from backend.protocol import Emotion
from backend.recordings import ExportFormat
from backend.recordings.export import export
from backend.recordings.export.sound import MAX_SOUNDING, time_line
from backend.recordings.reader import SessionFile, reply_track
from backend.recordings.recorder import Recorder, describe
from backend.recordings.records import (
    BargeInRecord,
    PlaybackRecord,
    TypedRecord,
)
from backend.recordings.transcript import read_transcript, transcript_fields
from backend.trace import Cause, TracedDecision, TracedToken
from bench.live import system_chromium
from tests.recording import refuse_notices, rewrite

SETTINGS = SessionSettings(sampling=SamplingConfig(temperature=0.5, top_k=3), seed=3)
HOSTILE = "</script><b>bold</b> -->\n\n2 & @@audio@@ *x*"
NUM_CHUNKS = 300
"""Two minutes."""


def tone(hertz: float, num_samples: int, rate_hz: int) -> np.ndarray:
    wave = 0.2 * np.sin(2 * np.pi * hertz * np.arange(num_samples) / rate_hz)
    return wave.astype(np.float32)


@pytest.fixture(scope="module")
def packed(golden_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes with three replies; the first is spoken, the second stopped."""
    path = tmp_path_factory.mktemp("exports") / "two minutes.aisession"
    manifest = describe(golden_checkpoint, SETTINGS, 512, title="Two <minutes>")
    recorder = Recorder(path, manifest, refuse_notices)
    noise = np.random.default_rng(0).normal(0, 0.05, (8, CHUNK_SAMPLES)).astype(np.float32)
    replies = {
        2: ("Hello there.", Emotion.HAPPY, TurnStatus.COMPLETED),
        5: ("I was going", Emotion.SAD, TurnStatus.CANCELLED),
        299: (HOSTILE, None, TurnStatus.COMPLETED),
    }
    turn = 0
    for chunk in range(NUM_CHUNKS):
        recorder.hears(noise[chunk % 8])
        reply = replies.get(chunk)
        decision = Decision(chunk, reply is not None, 0.9 if reply else 0.1, 0.5, 4.0, 10, 512)
        cause = Cause.REQUESTED if chunk == 5 else Cause.DRAWN
        recorder.decided(TracedDecision(decision, 1, (1.0, -1.0), cause))
        if reply is not None:
            text, emotion, status = reply
            recorder.said(TracedToken(turn, 5, Cause.DRAWN, text, emotion, None))
            recorder.said(TracedToken(turn, 6, Cause.DRAWN, "", None, status))
            turn += 1
    recorder.note(TypedRecord(at=9.0, chunk=3, text="<i>typed</i>"))
    recorder.note(BargeInRecord(at=9.1, turn=1, onset_seconds=3.0))
    recorder.note(PlaybackRecord(at=9.2, turn=0, starts_at_seconds=2.0, played_ms=500))
    recorder.reply_audio(0, float_to_pcm16(tone(440, 24_000, 24_000)))
    assert recorder.close() == path
    return path


def exported(packed: Path, wanted: ExportFormat, folder: Path) -> Path:
    output = folder / f"out{wanted.suffix}"
    with SessionFile(packed) as file:
        export(file, wanted, output)
    return output


def test_web_captions(packed: Path, tmp_path: Path) -> None:
    blocks = exported(packed, ExportFormat.VTT, tmp_path).read_text().strip().split("\n\n")
    assert blocks[0] == "WEBVTT"
    assert blocks[1].splitlines() == [
        "1",
        "00:00:02.000 --> 00:00:02.400",
        "<v.happy Assistant>Hello …</v>",
    ]
    assert blocks[2].splitlines()[2] == "<v.sad Assistant>I was going …</v>"
    assert blocks[3].splitlines()[1].startswith("00:02:00.000 --> ")
    assert "&lt;/script&gt;" in blocks[3]
    assert len(blocks) == 4


def test_subrip_captions(packed: Path, tmp_path: Path) -> None:
    blocks = exported(packed, ExportFormat.SRT, tmp_path).read_text().strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["1", "2", "3"]
    assert blocks[0].splitlines()[1] == "00:00:02,000 --> 00:00:02,400"
    assert "<" not in blocks[2]
    assert blocks[2].count("-->") == 1


def test_markdown(packed: Path, tmp_path: Path) -> None:
    text = exported(packed, ExportFormat.MARKDOWN, tmp_path).read_text()
    assert text.startswith("# Two \\<minutes\\>\n")
    # Half a second of its second was heard.
    assert "**0:01.2** *happy:* Hello … *(stopped)*  \n" in text
    assert "**0:02.4** *sad:* I was going … *(spoken over)*" in text
    assert r"*typed:* \<i\>typed\</i\>" in text
    assert r"\*x\*" in text


def test_the_command_line_tells_what_was_heard_and_typed(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["replay", str(packed), "--json"]) == 0
    _, *said = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(entry["event"], entry["seconds"]) for entry in said[:3]] == [
        ("reply", 1.2),
        ("typed", 1.6),
        ("reply", 2.4),
    ]
    cut = said[0]
    assert (cut["text"], cut["heard_text"], cut["status"]) == ("Hello there.", "Hello", "cancelled")
    assert cut["cut_after_ms"] == 500
    assert said[1]["text"] == "<i>typed</i>"
    assert said[-1]["status"] == "completed"
    assert app.main(["replay", str(packed)]) == 0
    assert "happy    Hello [stopped]\n" in capsys.readouterr().out


def test_a_title_begins_no_other_line_of_markdown(packed: Path, tmp_path: Path) -> None:
    edited = rewrite(
        packed,
        tmp_path / "title.aisession",
        lambda members: members.update(
            {"manifest.json": members["manifest.json"].replace(b"Two ", b"Two\\n- ")}
        ),
    )
    text = exported(edited, ExportFormat.MARKDOWN, tmp_path).read_text(encoding="utf-8")
    assert text.startswith("# Two - \\<minutes\\>\n\n- ")


def test_the_sound_has_the_microphone_left_and_the_replies_right(
    packed: Path, tmp_path: Path
) -> None:
    sound, rate_hz = soundfile.read(exported(packed, ExportFormat.WAV, tmp_path))
    assert (rate_hz, sound.shape) == (24_000, (120 * 24_000, 2))
    left, right = sound.T
    assert np.abs(left[: rate_hz // 2]).max() > 0.05
    # Half a second of the reply was heard, from 2 s on.
    assert np.abs(right[: 2 * rate_hz]).max() == 0
    assert np.abs(right[2 * rate_hz : int(2.5 * rate_hz)]).max() == pytest.approx(0.2, abs=0.01)
    assert np.abs(right[int(2.51 * rate_hz) :]).max() == 0


def test_the_page_holds_everything_and_needs_nothing(packed: Path, tmp_path: Path) -> None:
    output = exported(packed, ExportFormat.HTML, tmp_path)
    assert output.stat().st_size < 2_000_000
    text = output.read_text(encoding="utf-8")
    assert "<title>Two &lt;minutes&gt;</title>" in text
    without_sound = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import", without_sound)
    assert "default-src 'none'" in text
    assert text.count("</script>") == 2
    found = re.search(r'id="story">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    story = json.loads(found[1])
    assert (story["seconds"], len(story["decisions"])) == (120, NUM_CHUNKS)
    assert len(story["peaks"]) == NUM_CHUNKS * story["peaks_per_chunk"]
    assert [said["kind"] for said in story["said"]] == ["reply", "typed", "reply", "reply"]
    assert [said["is_requested"] for said in story["said"]] == [False, False, True, False]
    assert story["said"][-1]["pieces"][0][1] == HOSTILE


def test_the_page_opens_from_disk(packed: Path, tmp_path: Path) -> None:
    """In Chromium: the text follows the sound, in both colour schemes, without a request."""
    output = exported(packed, ExportFormat.HTML, tmp_path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system_chromium())
        page = browser.new_page(color_scheme="dark", viewport={"width": 390, "height": 800})
        requests: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(output.as_uri())
        page.wait_for_function("document.getElementById('sound').duration > 119")
        assert page.evaluate("document.getElementById('sound').duration") < 121
        assert page.locator("li").count() == 4
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        page.evaluate("document.getElementById('sound').currentTime = 1.5")
        page.wait_for_selector("li.now")
        assert "Hello there." in page.locator("li.now").inner_text()
        assert page.locator("b").count() == 0
        assert all(url.startswith(("file:", "data:")) for url in requests)
        assert problems == []
        browser.close()


def test_the_command(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "captions.vtt"
    assert app.main(["export", str(packed), "--to", "vtt", "--out", str(output)]) == 0
    assert output.read_text().startswith("WEBVTT")
    assert str(output) in capsys.readouterr().out
    nowhere = str(tmp_path / "no folder" / "out.wav")
    for wanted in ("wav", "html", "srt"):
        assert app.main(["export", str(packed), "--to", wanted, "--out", nowhere]) == EXIT_ERROR
        assert "cannot be written" in capsys.readouterr().err


def test_a_sound_is_not_written_over_the_one_that_was_recorded(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = packed.with_suffix(".wav")
    heard.write_text("what was recorded")
    assert app.main(["export", str(packed), "--to", "wav"]) == EXIT_ERROR
    assert "exists already: name it with --out" in capsys.readouterr().err
    assert heard.read_text() == "what was recorded"
    assert app.main(["export", str(packed), "--to", "wav", "--out", str(heard)]) == 0
    assert heard.read_bytes().startswith(b"RIFF")
    heard.unlink()


@pytest.mark.parametrize("wanted", ExportFormat)
def test_an_export_that_cannot_be_written_does_not_tell_where(
    wanted: ExportFormat, packed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "no folder" / "out"
    with (
        SessionFile(packed, "two minutes") as file,
        pytest.raises(
            SessionFileError, match=f"^two minutes: its export as {wanted} cannot"
        ) as told,
    ):
        export(file, wanted, output)
    assert str(tmp_path) not in str(told.value)


@pytest.mark.parametrize("wanted", ExportFormat)
def test_an_export_that_fails_leaves_what_was_there(
    wanted: ExportFormat, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.write_text("of last week")

    def full(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    def no_sound(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backend.recordings.export.write_wav", lambda _, path: full(path))
    monkeypatch.setattr("backend.recordings.export.page.write_mp3", no_sound)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr("backend.recordings.export.transcript_json", no_sound)
    monkeypatch.setattr("backend.recordings.export.write_table", lambda _, path, __: full(path))
    with SessionFile(packed) as file, pytest.raises(SessionFileError, match="No space left"):
        export(file, wanted, output)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert output.read_text() == "of last week"


def test_an_export_is_written_through_a_link_and_into_a_pipe(packed: Path, tmp_path: Path) -> None:
    linked, pipe = tmp_path / "linked", tmp_path / "pipe"
    linked.symlink_to(tmp_path / "captions.srt")
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    with SessionFile(packed) as file:
        export(file, ExportFormat.SRT, linked)
        export(file, ExportFormat.SRT, pipe)
    reader.join()
    assert pipe.is_fifo()
    assert linked.is_symlink()
    assert (tmp_path / "captions.srt").read_text() == read[0] != ""


@pytest.mark.parametrize("wanted", ExportFormat)
def test_an_export_does_not_overwrite_its_recording(
    wanted: ExportFormat, packed: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(packed, tmp_path / "own.aisession"))
    linked, named_twice = tmp_path / "linked", tmp_path / "named twice"
    linked.symlink_to(path)
    named_twice.hardlink_to(path)
    for output in (path, linked, named_twice):
        with (
            SessionFile(path) as file,
            pytest.raises(SessionFileError, match=f"{output.name} is the recording itself"),
        ):
            export(file, wanted, output)
    assert path.read_bytes() == packed.read_bytes()


def test_an_export_does_not_overwrite_a_part_of_its_recording(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own.aisession.live"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    events = (folder / "events.jsonl").read_bytes()
    pcm, _ = soundfile.read(folder / "microphone.flac", dtype="int16")
    (folder / "microphone.pcm").write_bytes(pcm.tobytes())
    with SessionFile(folder) as file, pytest.raises(SessionFileError, match="recording itself"):
        export(file, ExportFormat.VTT, folder / "events.jsonl")
    assert (folder / "events.jsonl").read_bytes() == events


def test_a_recording_without_replies(golden_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "nothing.aisession"
    recorder = Recorder(path, describe(golden_checkpoint, SETTINGS, 512), refuse_notices)
    recorder.close()
    for wanted in ExportFormat:
        assert exported(path, wanted, tmp_path).exists()
    with SessionFile(path) as file:
        assert (file.num_chunks, read_transcript(file).replies) == (0, [])
        assert file.manifest.sample_rate_hz == SAMPLE_RATE_HZ


def speaking_at_once(packed: Path, folder: Path, num_replies: int, flac: bytes) -> Path:
    """A copy in which chunks 10 on are answered by replies that all sound from the beginning."""

    def edit(members: dict[str, bytes]) -> None:
        lines = members["events.jsonl"].decode().splitlines()
        decided = re.compile(r'"type":"decision","chunk":1[0-9],')
        added = []
        events = []
        # Two replies come before them, and the last turn is counted up.
        turn = 2
        for line in lines:
            if turn < num_replies + 2 and decided.search(line):
                events.append(line.replace('"speak":false', '"speak":true'))
                events.append(
                    f'{{"at":5,"type":"token","turn":{turn},"token":6,"cause":"drawn",'
                    '"status":"completed"}'
                )
                added.append(turn)
                turn += 1
            elif '"turn":2,' in line:
                events.append(line.replace('"turn":2,', f'"turn":{num_replies + 2},'))
            else:
                events.append(line)
        end = events.pop()
        for turn in added:
            events.append(f'{{"at":60,"type":"playback","turn":{turn},"starts_at_seconds":0}}')
            members[f"{reply_track(turn)}.flac"] = flac
        members["events.jsonl"] = "\n".join([*events, end, ""]).encode()

    return rewrite(packed, folder / "at once.aisession", edit)


def silent_flac(seconds: float) -> bytes:
    content = BytesIO()
    silence = np.zeros(round(seconds * SPEECH_RATE_HZ), np.int16)
    soundfile.write(content, silence, SPEECH_RATE_HZ, "PCM_16", format="FLAC")
    return content.getvalue()


def test_replies_are_not_held_while_they_sound(packed: Path, tmp_path: Path) -> None:
    path = speaking_at_once(packed, tmp_path, 6, silent_flac(240))
    with SessionFile(path) as file:
        tracemalloc.start()
        num_samples = sum(len(replies) for _, replies in time_line(file, SAMPLE_RATE_HZ))
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
        tracemalloc.stop()
    assert 240 <= num_samples / SAMPLE_RATE_HZ < 242


def test_more_replies_at_once_than_anybody_lets_speak(packed: Path, tmp_path: Path) -> None:
    path = speaking_at_once(packed, tmp_path, MAX_SOUNDING + 1, silent_flac(1))
    with pytest.raises(SessionFileError, match=r"at once\.aisession: more than 8 of its replies"):
        exported(path, ExportFormat.WAV, tmp_path)


def test_the_length_of_a_reply_is_read_without_its_sound(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = speaking_at_once(packed, tmp_path, 1, silent_flac(90))
    with SessionFile(path) as file:
        fields = transcript_fields(file, read_transcript(file))
        assert file.reply_seconds(2) == 90
        monkeypatch.setattr("backend.recordings.reader.MAX_REPLY_SECONDS", 60)
        with pytest.raises(SessionFileError, match="the audio of reply 2 is longer than any"):
            file.reply_seconds(2)
    said = fields["said"]
    assert isinstance(said, list)
    assert [entry["end"] for entry in said if entry["turn"] == 2] == [90]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        # The number of samples is the last 36 bits before the checksum of the header's block.
        (lambda flac: flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:], "how long"),
        (lambda flac: flac[:21] + bytes([flac[21] | 0x0F]) + flac[22:], "longer than any"),
    ],
)
def test_a_reply_that_lies_about_its_length(
    edit: Callable[[bytes], bytes], said: str, packed: Path, tmp_path: Path
) -> None:
    path = speaking_at_once(packed, tmp_path, 1, edit(silent_flac(1)))
    with SessionFile(path) as file, pytest.raises(SessionFileError, match=said):
        file.reply_seconds(2)
