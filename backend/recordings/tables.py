"""A recording as tables of plain values: what CSV, Parquet, JSON lines and pandas are made of."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

from backend.events import text_of
from backend.recordings.reader import SessionFile
from backend.recordings.records import DecisionRecord, EndRecord, TokenRecord
from backend.recordings.transcript import RecordedReply, Transcript, chunk_end, read_transcript

TableRow = dict[str, object]
"""Names of columns to text, numbers, truth values and None."""


@dataclass(slots=True)
class HeardWord:
    """A word that the model has heard, in seconds of the microphone's sound."""

    text: str
    start_seconds: float
    end_seconds: float
    chunk: int
    """At whose end it was known, or its first piece was."""


class SessionTables(NamedTuple):
    """Everything in a recording but its sound; each list is a table whose rows are alike."""

    chunks: list[TableRow]
    """A row a chunk, with the reply that it was answered with, if any."""
    replies: list[TableRow]
    tokens: list[TableRow]
    """Of replies."""
    words: list[TableRow]
    """That were heard; empty where the checkpoint writes down none."""
    events: list[TableRow]
    """What else happened, as `events.jsonl` has it; columns that an event lacks are None."""
    annotations: list[TableRow]
    """What people say of it."""


def read_tables(file: SessionFile) -> SessionTables:
    """All tables of a recording.

    Raises:
        SessionFileError: it was changed since it was opened.
    """
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
                fields |= fields.pop("drawing", {})
                events.append(fields)
    columns = list(dict.fromkeys(name for event in events for name in event))
    return SessionTables(
        chunk_rows(transcript),
        [_reply_row(reply) for reply in transcript.replies],
        tokens,
        [asdict(word) for word in heard_words(transcript.decisions)],
        [{name: event.get(name) for name in columns} for event in events],
        [annotation.model_dump(mode="json") for annotation in file.annotations],
    )


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
        latency = None if reply is None else reply.latency
        said = [
            each
            for each in transcript.annotations
            if each.is_about(decision.chunk, None if reply is None else reply.turn)
        ]
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
                "heard": None
                if decision.words is None
                else text_of(piece.text for piece in decision.words),
                "turn": None if reply is None else reply.turn,
                "emotion": None if reply is None or reply.emotion is None else reply.emotion.value,
                "text": None if reply is None else reply.text,
                "status": None if reply is None or reply.status is None else reply.status.value,
                "decision_ms": None if latency is None else latency.decision_ms,
                "first_text_ms": None if latency is None else latency.first_text_ms,
                "first_sound_ms": None if latency is None else latency.first_sound_ms,
                "verdict": next((each.verdict for each in said if each.verdict), None),
                "note": "\n".join(each.note for each in said if each.note) or None,
            }
        )
    return rows


def _reply_row(reply: RecordedReply) -> TableRow:
    latency, barge_in = reply.latency, reply.barge_in
    return {
        "turn": reply.turn,
        "chunk": reply.chunk,
        "seconds": reply.seconds,
        "starts_at_seconds": reply.starts_at_seconds,
        "ends_at_seconds": reply.ends_at_seconds,
        "emotion": None if reply.emotion is None else reply.emotion.value,
        "text": reply.text,
        "heard_text": reply.heard_text,
        "status": None if reply.told_status is None else reply.told_status.value,
        "requested": reply.is_requested,
        "sound_seconds": reply.sound_seconds,
        "cut_after_ms": reply.cut_after_ms,
        "decision_ms": None if latency is None else latency.decision_ms,
        "first_text_ms": None if latency is None else latency.first_text_ms,
        "first_sound_ms": None if latency is None else latency.first_sound_ms,
        "barge_in_seconds": None if barge_in is None else barge_in.onset_seconds,
        "silence_ms": None if barge_in is None else barge_in.silence_ms,
    }
