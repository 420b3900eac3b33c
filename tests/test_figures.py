"""Figures and tables of recordings, and recordings in pandas."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from backend.config import CHUNK_SAMPLES
from backend.errors import SettingsError
from backend.events import TurnDone, TurnStatus
from backend.plotting import require_figure
from backend.protocol import Emotion
from backend.recordings import ExportFormat, StudyFormat, session_file
from backend.recordings.export import export
from backend.recordings.export.figure import Strip, draw_strips, peaks_of
from backend.recordings.reader import SessionFile
from backend.recordings.records import DecisionRecord, HeardRecord, LatencyRecord, PlaybackRecord
from backend.recordings.session_file import HeardWord, heard_words
from backend.recordings.transcript import RecordedReply

Exported = dict[ExportFormat | StudyFormat, Path]
CONVERSATION = Path(__file__).parents[1] / "assets" / "gallery" / "conversation.aisession"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A sample session in every format."""
    folder = tmp_path_factory.mktemp("figures")
    paths: Exported = {
        wanted: folder / f"conversation{wanted.suffix}"
        for wanted in (ExportFormat.CSV, *StudyFormat)
    }
    with SessionFile(CONVERSATION) as file:
        for wanted, path in paths.items():
            export(file, wanted, path)
    return paths


def test_tables_say_the_same(exported: Exported) -> None:
    lines = exported[StudyFormat.JSONL].read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert parquet.read_table(exported[StudyFormat.PARQUET]).to_pylist() == rows
    with exported[ExportFormat.CSV].open(encoding="utf-8", newline="") as file:
        texts = list(csv.DictReader(file))
    assert [row["chunk"] for row in rows] == list(range(len(rows)))
    assert [float(row["probability"]) for row in texts] == [row["probability"] for row in rows]
    spoken = [row for row in rows if row["speak"]]
    assert [row["text"] for row in texts if row["text"]] == [row["text"] for row in spoken]
    assert all(row["emotion"] and row["first_sound_ms"] > 0 for row in spoken)


def test_figures_hold_what_was_said_as_text(
    exported: Exported,
) -> None:
    drawn = exported[StudyFormat.SVG].read_text(encoding="utf-8")
    assert "Coming up: large dark roast americano." in drawn
    assert "replies after" in drawn
    assert exported[StudyFormat.PDF].read_bytes().startswith(b"%PDF")
    assert exported[StudyFormat.PNG].read_bytes().startswith(b"\x89PNG")


def test_a_recording_in_pandas() -> None:
    session = session_file.read(CONVERSATION)
    assert len(session.microphone) == len(session.chunks) * CHUNK_SAMPLES
    assert list(session.replies.turn) == list(range(len(session.replies)))
    assert session.chunks.speak.sum() == len(session.replies)
    said = session.tokens.groupby("turn").text.sum()
    assert list(said) == list(session.replies.text)
    assert {"playback", "latency"} <= set(session.events.type)
    assert session.manifest["checkpoint"]["name"] == "embedded"


def test_pieces_become_words() -> None:
    with SessionFile(CONVERSATION) as file:
        decisions = [record for record in file.records() if isinstance(record, DecisionRecord)]
    pieces = [[(" la", 0.1, 0.2)], [("tte", 0.4, 0.5), (" please", 0.6, 0.8)], []]
    told = [
        decision.model_copy(
            update={"words": [HeardRecord(text=t, start=s, end=e) for t, s, e in heard]}
        )
        for decision, heard in zip(decisions, pieces, strict=False)
    ]
    assert heard_words(told) == [
        HeardWord("latte", 0.1, 0.5, 0),
        HeardWord("please", 0.6, 0.8, 1),
    ]


def test_strips_of_any_length_and_words(tmp_path: Path) -> None:
    """No sound at all, an hour of it, and words that would be a formula."""
    empty = np.empty(0, np.float32)
    draw_strips(empty, [Strip("", [], [], [])], tmp_path / "empty.svg")
    done = TurnDone(0, 0, "$x_1 <b>\n$", Emotion.SAD, TurnStatus.COMPLETED)
    played = PlaybackRecord(at=0.0, turn=0, starts_at_seconds=0.4, played_ms=2_000_000.0)
    latency = LatencyRecord(at=0.0, turn=0, first_sound_ms=200.0)
    reply = replace(RecordedReply.of(done), playback=played, sound_seconds=2000.0, latency=latency)
    words = [HeardWord("hush", 0.1, 0.4, 0), HeardWord("$", 3000.0, 3000.1, 7500)]
    one = Strip("one", [0.1] * 9000, [0.5] * 9000, [reply], words)
    sound = np.concatenate([peaks_of(np.ones(CHUNK_SAMPLES, np.float32))] * 9000)
    draw_strips(sound, [one, one], tmp_path / "hour.svg", differ_at=[3])
    assert "hush" in (tmp_path / "hour.svg").read_text(encoding="utf-8")
    assert "$x_1 &lt;b&gt; $ (stopped) (200 ms)" in (tmp_path / "hour.svg").read_text(
        encoding="utf-8"
    )
    with pytest.raises(SettingsError, match=r"must end in \.svg, \.pdf, \.png"):
        require_figure(tmp_path / "figure.doc")
