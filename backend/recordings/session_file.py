"""A session file as tables, and in pandas: `session_file.read("seven.aisession").chunks`.

A table's rows are alike and of plain values. pandas is imported when a file is read; Gradio brings
it.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.audio import Samples
from backend.errors import SettingsError
from backend.events import text_of
from backend.recordings.reader import SessionFile
from backend.recordings.records import DecisionRecord, EndRecord, TokenRecord
from backend.recordings.transcript import RecordedReply, Transcript, chunk_end, read_transcript

if TYPE_CHECKING:
    from pandas import DataFrame

TableRow = dict[str, object]
"""Names of columns to text, numbers, truth values and None."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LATENCIES = ("decision_ms", "first_text_ms", "first_sound_ms")


@dataclass(frozen=True, slots=True)
class SessionFrames:
    """A recording as frames; docs/evaluation.md names their columns."""

    manifest: dict[str, Any]
    """What holds for all of it: checkpoint, prompt, seed, drawing."""
    chunks: "DataFrame"
    """A row a chunk, with the reply that it was answered with, if any."""
    replies: "DataFrame"
    tokens: "DataFrame"
    """Of replies."""
    words: "DataFrame"
    """That were heard; empty where the checkpoint writes down none."""
    events: "DataFrame"
    """What else happened, as `events.jsonl` has it; columns that an event lacks are None."""
    annotations: "DataFrame"
    """What people say of it."""
    microphone: Samples
    """float32 `[n]` at 16 kHz."""


def read(path: str | Path) -> SessionFrames:
    """Everything in a session file, packed or still a folder.

    Raises:
        SessionFileError: it is none, or does not agree with itself.
    """
    from pandas import DataFrame

    with SessionFile(path) as file:
        transcript = read_transcript(file)
        tokens: list[TableRow] = []
        events: list[TableRow] = []
        for record in file.records():
            match record:
                case DecisionRecord() | EndRecord():
                    pass
                case TokenRecord():
                    tokens.append(record.model_dump(mode="json", exclude={"type"}))
                case _:
                    fields = record.model_dump(mode="json")
                    events.append(fields | fields.pop("drawing", {}))
        columns = dict.fromkeys(name for event in events for name in event)
        return SessionFrames(
            file.manifest.model_dump(mode="json"),
            DataFrame(chunk_rows(transcript)),
            DataFrame([_reply_row(reply) for reply in transcript.replies]),
            DataFrame(tokens),
            DataFrame([asdict(word) for word in heard_words(transcript.decisions)]),
            DataFrame([dict.fromkeys(columns) | event for event in events]),
            DataFrame([annotation.model_dump(mode="json") for annotation in file.annotations]),
            np.concatenate([np.empty(0, np.float32), *file.chunks()]),
        )


@dataclass(slots=True)
class HeardWord:
    """A word that the model has heard, in seconds of the microphone's sound."""

    text: str
    start_seconds: float
    end_seconds: float
    chunk: int
    """At whose end it was known, or its first piece was."""


def heard_words(decisions: Iterable[DecisionRecord]) -> list[HeardWord]:
    """The pieces that were heard, joined where they belong to one word."""
    words: list[HeardWord] = []
    for decision in decisions:
        for piece in decision.words or ():
            if words and not piece.text.startswith(" "):
                words[-1].text += piece.text
                words[-1].end_seconds = piece.end
            else:
                words.append(HeardWord(piece.text, piece.start, piece.end, decision.chunk))
    for word in words:
        word.text = text_of([word.text])
    return words


def chunk_rows(transcript: Transcript) -> list[TableRow]:
    """A row a chunk, with the reply to it, and what people say of it or of that."""
    replies = {reply.chunk: reply for reply in transcript.replies}
    rows: list[TableRow] = []
    for decision in transcript.decisions:
        reply = replies.get(decision.chunk)
        turn = None if reply is None else reply.turn
        said = [each for each in transcript.annotations if each.is_about(decision.chunk, turn)]
        words = None if decision.words is None else [piece.text for piece in decision.words]
        rows.append(
            {
                "chunk": decision.chunk,
                "seconds": chunk_end(decision.chunk),
                "arrived": decision.arrived,
                "decided": decision.at,
                "speak": decision.speak,
                "cause": decision.cause.value,
                "probability": decision.probability,
                "threshold": decision.threshold,
                "logit_silence": decision.logits[0],
                "logit_speak": decision.logits[1],
                "milliseconds": decision.milliseconds,
                "positions": decision.positions,
                "heard": None if words is None else text_of(words),
                "turn": turn,
                "emotion": reply and reply.emotion and reply.emotion.value,
                "text": reply and reply.text,
                "status": reply and reply.status and reply.status.value,
                **_latencies(reply),
                "verdict": next((each.verdict for each in said if each.verdict), None),
                "note": "\n".join(each.note for each in said if each.note) or None,
            }
        )
    return rows


def _reply_row(reply: RecordedReply) -> TableRow:
    barge_in = reply.barge_in
    return {
        "turn": reply.turn,
        "chunk": reply.chunk,
        "seconds": reply.seconds,
        "starts_at_seconds": reply.starts_at_seconds,
        "ends_at_seconds": reply.ends_at_seconds,
        "emotion": reply.emotion and reply.emotion.value,
        "text": reply.text,
        "heard_text": reply.heard_text,
        "status": reply.told_status and reply.told_status.value,
        "requested": reply.is_requested,
        "sound_seconds": reply.sound_seconds,
        "cut_after_ms": reply.cut_after_ms,
        **_latencies(reply),
        "barge_in_seconds": barge_in and barge_in.onset_seconds,
        "silence_ms": barge_in and barge_in.silence_ms,
    }


def _latencies(reply: RecordedReply | None) -> TableRow:
    """In milliseconds, by name; None where there is no reply, or none was measured."""
    return {name: reply and getattr(reply.latency, name, None) for name in _LATENCIES}


def write_table(rows: Sequence[TableRow], output: Path, kind: str) -> None:
    """Write rows that are alike as `csv`, `jsonl` or `parquet`.

    Raises:
        SettingsError: pyarrow is missing, which Parquet needs.
    """
    match kind:
        case "csv":
            with output.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]) if rows else [])
                writer.writeheader()
                for row in rows:
                    writer.writerow({name: _cell(value) for name, value in row.items()})
        case "jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            output.write_text("".join(lines), encoding="utf-8")
        case _:
            _write_parquet(rows, output)


def _cell(value: object) -> object:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _write_parquet(rows: Sequence[TableRow], output: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SettingsError(
            "Parquet needs pyarrow: pip install -r requirements-study.txt"
        ) from error
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), output)
