"""The gallery: every session repeats token by token, and says where its clips come from."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from backend.config import SPEECH_RATE_HZ
from backend.model.checkpoint import Checkpoint
from backend.recordings.reader import SessionFile
from backend.recordings.records import (
    BargeInRecord,
    LatencyRecord,
    PlaybackRecord,
    TypedRecord,
)
from backend.recordings.replay import Verifier
from backend.recordings.transcript import read_transcript, transcript_fields
from backend.training.domain import SOUND_REPLIES, phrase_reply
from bench.gallery import FOLDER, LIST, SAMPLES, SUFFIX, Cue, Script, read_scripts, record_script

SCRIPTS = read_scripts()
MOST_BYTES = 3_000_000


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_session_is_the_embedded_models(embedded_checkpoint: Checkpoint, script: Script) -> None:
    """Where this fails after a change of the weights, `make gallery` records it anew."""
    with SessionFile(FOLDER / f"{script.name}{SUFFIX}") as file:
        verifier = Verifier(embedded_checkpoint, file)
        for _ in verifier.verify():
            pass
        assert verifier.outcome.difference is None
        assert verifier.outcome.num_decisions == file.num_chunks
        assert file.is_complete
        assert file.seconds == pytest.approx(script.seconds)
        assert file.manifest.title == script.title
        assert file.manifest.drawing.temperature == 0
        assert len(file.reply_turns) == len(read_transcript(file).replies)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_session_shows_every_clip_answered_as_it_should_be(script: Script) -> None:
    """Where this fails after a change of the weights, they or the script are to be changed."""
    right = {
        sample["file"]: sample["reply"]
        for sample in json.loads((SAMPLES / "samples.json").read_text("utf-8"))
    }
    rooster, typed = SOUND_REPLIES["rooster"], phrase_reply("how are you")
    assert rooster is not None
    assert typed is not None
    right |= {"rooster.ogg": rooster.text, "How are you?": typed.text}
    wanted = [reply for cue in script.cues if (reply := right[cue.file or cue.typed])]
    with SessionFile(FOLDER / f"{script.name}{SUFFIX}") as file:
        assert [reply.text for reply in read_transcript(file).replies] == wanted


def test_list_files_and_attributions_agree() -> None:
    listed = json.loads((FOLDER / LIST).read_text("utf-8"))
    names = [entry["name"] for entry in listed]
    assert sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")) == sorted(names)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES
    readme = (FOLDER / "README.md").read_text("utf-8")
    licences = {
        sample["file"]: sample["licence"]
        for file in ("samples.json", "sounds.json")
        for sample in json.loads((SAMPLES / file).read_text("utf-8"))
    }
    for script in SCRIPTS:
        (row,) = re.findall(rf"^\| `{script.name}` \|.*$", readme, re.MULTILINE)
        clips = {cue.file for cue in script.cues if cue.file}
        assert set(re.findall(r"`(\w+\.ogg)`", row)) == clips
        stated = {licence.strip() for licence in row.split("|")[3].split(",")}
        assert stated == {licences[clip] for clip in clips}
    for entry in listed:
        assert re.fullmatch(r"[a-z-]+", entry["name"])
        for words in ("title", "about"):
            assert entry[words]
            assert re.search("[\u4e00-\u9fff]", entry[f"{words}_zh"])


def test_performance_is_a_live_conversation(
    embedded_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """A voice over a reply stops it, a typed text is noted, and times are those of the sound."""
    order = Cue(0.2, "order_small_latte_double_shot.ogg")
    over = Cue(5.2, "order_large_dark_roast_americano.ogg")
    script = Script(
        "live", "Live", 13.2, (order, over, replace(over, at=11.2, file="", typed="Hi"))
    )
    # A machine that takes no time, so that a busy one does not matter.
    path = record_script(embedded_checkpoint, script, tmp_path, machine=lambda: 0.0)
    with SessionFile(path) as file:
        records = list(file.records())
        story = read_transcript(file)
        said = cast(list[dict[str, Any]], transcript_fields(file, story)["said"])
        lengths = [len(file.reply_audio(turn)) / SPEECH_RATE_HZ for turn in file.reply_turns]
    # The last record of a reply counts.
    barge_ins = {record.turn: record for record in records if isinstance(record, BargeInRecord)}
    (barge_in,) = barge_ins.values()
    first = story.replies[0]
    assert barge_in.turn == 0
    assert first.playback is not None
    assert first.playback.played_ms is not None
    assert first.playback.starts_at_seconds == pytest.approx(first.seconds)
    assert first.playback.played_ms == pytest.approx(
        1000 * (barge_in.onset_seconds - first.playback.starts_at_seconds)
        + (barge_in.silence_ms or 0),
        abs=1,
    )
    # Replies are shown as long as they sound.
    replies = [fields for fields in said if fields["kind"] == "reply"]
    sounded = [fields["end"] - fields["spoken"]["starts_at_seconds"] for fields in replies]
    heard = [first.playback.played_ms / 1000, *lengths[1:]]
    assert sounded == pytest.approx(heard, abs=0.01)
    assert [record.chunk for record in records if isinstance(record, TypedRecord)] == [28]
    latencies = {record.turn: record for record in records if isinstance(record, LatencyRecord)}
    playbacks = {record.turn for record in records if isinstance(record, PlaybackRecord)}
    assert latencies.keys() == playbacks == set(range(len(story.replies)))
    for latency in latencies.values():
        assert latency.decision_ms is not None
        assert latency.first_text_ms is not None
        assert latency.first_sound_ms is not None
        assert 0 <= latency.decision_ms <= latency.first_text_ms <= latency.first_sound_ms
    assert records[-1].at >= script.seconds
