"""What was said in a recorded conversation, and when: typed, and as JSON. Needs no model."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from backend.config import CHUNK_SECONDS
from backend.events import HeardPiece, TurnDone, TurnStatus, text_of
from backend.protocol import Emotion
from backend.recordings.reader import SessionFile
from backend.recordings.records import (
    Annotations,
    BargeInRecord,
    DecisionRecord,
    FailedRecord,
    LatencyRecord,
    Manifest,
    PlaybackRecord,
    SettingsRecord,
    TokenRecord,
    TypedRecord,
)
from backend.trace import Cause

READING_CHARACTERS_PER_SECOND = 15
SHORTEST_SHOWN_SECONDS = 1.5
PEAKS_PER_CHUNK = 4
LONGEST_PAUSE_SECONDS = 1.0
"""Words further apart are shown as speech of their own."""
ENDINGS = {
    TurnStatus.COMPLETED: "",
    TurnStatus.CANCELLED: "stopped",
    TurnStatus.INCOMPLETE: "at its longest",
    None: "cut off",
}
"""What there is to say about how a reply ended; None where the recording ended before it did."""

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class TimedText:
    """Some text of a reply, and when it came after the reply's first token."""

    text: str
    seconds: float


@dataclass(slots=True)
class RecordedReply:
    """One reply, recorded or just given. Times are seconds of the microphone's audio."""

    turn: int
    chunk: int
    seconds: float
    """The end of the chunk that it answers."""
    is_requested: bool
    emotion: Emotion | None = None
    status: TurnStatus | None = None
    """None where the recording ended before the reply did."""
    pieces: list[TimedText] = field(default_factory=list)
    barge_in: BargeInRecord | None = None
    playback: PlaybackRecord | None = None
    latency: LatencyRecord | None = None
    sound_seconds: float | None = None
    """How much sound of it there is; None where it did not sound."""

    @classmethod
    def of(cls, done: TurnDone) -> "RecordedReply":
        """One that a model has just given, in writing."""
        reply = cls(done.turn, done.chunk, chunk_end(done.chunk), is_requested=False)
        reply.emotion, reply.status = done.emotion, done.status
        reply.pieces.append(TimedText(done.text, 0.0))
        return reply

    @property
    def text(self) -> str:
        """All that the model said."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def cut_after_ms(self) -> float | None:
        """How much of its sound was heard, where it was cut off."""
        return None if self.playback is None else self.playback.played_ms

    @property
    def heard_text(self) -> str:
        """What was heard or read of it: of a reply that was cut off, whole words."""
        if self.cut_after_ms is None:
            return self.text
        # Sound of what came after the cut may never have been made.
        spoken_seconds = max(
            self.sound_seconds or 0.0, len(self.text) / READING_CHARACTERS_PER_SECOND
        )
        share = min(1.0, self.cut_after_ms / 1000 / max(spoken_seconds, 1e-3))
        return _whole_words(self.text, round(share * len(self.text)))

    @property
    def told_status(self) -> TurnStatus | None:
        """How it ended for those who heard it, however much the model had said by then."""
        return self.status if self.cut_after_ms is None else TurnStatus.CANCELLED

    @property
    def starts_at_seconds(self) -> float:
        """Where it begins to be heard, or read where it did not sound."""
        if self.playback is None or self.sound_seconds is None:
            return self.seconds
        return self.playback.starts_at_seconds

    @property
    def ends_at_seconds(self) -> float:
        """Where it is over: its sound or, where there was none, the time that reading takes."""
        if self.playback is None or self.sound_seconds is None:
            return self.seconds + self.shown_seconds
        cut_after_ms = self.cut_after_ms
        length = self.sound_seconds if cut_after_ms is None else cut_after_ms / 1000
        return self.playback.starts_at_seconds + length

    @property
    def shown_seconds(self) -> float:
        """How long it takes to read."""
        return max(SHORTEST_SHOWN_SECONDS, len(self.text) / READING_CHARACTERS_PER_SECOND)

    @property
    def note(self) -> str:
        """What to say about a reply that is not whole; empty where it is."""
        if self.barge_in is not None:
            # The model may have said it to its end before it was all heard.
            return "(spoken over)"
        ending = ENDINGS[self.told_status]
        return f"({ending})" if ending else ""


@dataclass(frozen=True, slots=True)
class HeardSpeech:
    """Words that were heard without a long pause or a reply among them."""

    chunk: int
    """In which the first was heard."""
    pieces: tuple[HeardPiece, ...]

    @property
    def text(self) -> str:
        """Whole words."""
        return text_of(piece.text for piece in self.pieces)

    @property
    def seconds(self) -> float:
        """Where it begins in what the session has heard."""
        return self.pieces[0].start_seconds

    @property
    def end_seconds(self) -> float:
        """Where it ends."""
        return self.pieces[-1].end_seconds

    def earlier(self, seconds: float) -> "HeardSpeech":
        """The same on a clock that began so much later."""
        pieces = tuple(
            HeardPiece(
                piece.text,
                round(piece.start_seconds - seconds, 2),
                round(piece.end_seconds - seconds, 2),
            )
            for piece in self.pieces
        )
        return HeardSpeech(self.chunk, pieces)


class Speeches:
    """Makes speeches of the words that decisions tell."""

    def __init__(self) -> None:
        self._chunk = 0
        self._pieces: list[HeardPiece] = []

    def hear(
        self, chunk: int, pieces: Iterable[HeardPiece], *, is_answered: bool
    ) -> Iterator[HeardSpeech]:
        """What a chunk adds; yields speeches that are over. A reply ends one."""
        for piece in pieces:
            begins_word = piece.text.startswith(" ")
            if begins_word and self._is_over(piece.start_seconds):
                yield from self.end()
            if not self._pieces:
                self._chunk = chunk
            self._pieces.append(piece)
        if is_answered or self._is_over((chunk + 1) * CHUNK_SECONDS):
            yield from self.end()

    def end(self) -> Iterator[HeardSpeech]:
        """Nothing follows for now."""
        if self._pieces:
            yield HeardSpeech(self._chunk, tuple(self._pieces))
        self._pieces = []

    def _is_over(self, seconds: float) -> bool:
        pieces = self._pieces
        return bool(pieces) and seconds - pieces[-1].end_seconds > LONGEST_PAUSE_SECONDS


Entry = RecordedReply | TypedRecord | HeardSpeech


def begins_at(entry: Entry) -> float:
    """Where something is said, in seconds of the microphone's audio."""
    return chunk_end(entry.chunk) if isinstance(entry, TypedRecord) else entry.seconds


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """Other settings, and the first chunk that was decided on by them."""

    chunk: int
    settings: SettingsRecord


@dataclass(slots=True)
class Transcript:
    """What happened, reply by reply and chunk by chunk."""

    replies: list[RecordedReply] = field(default_factory=list)
    typed: list[TypedRecord] = field(default_factory=list)
    heard: list[HeardSpeech] = field(default_factory=list)
    """Of a checkpoint that writes down words; without those of typed text, which is read to it."""
    decisions: list[DecisionRecord] = field(default_factory=list)
    """One per chunk."""
    changes: list[SettingsChange] = field(default_factory=list)
    failure: str | None = None
    annotations: Annotations = ()
    """What people say of it."""

    def entries(self) -> list[Entry]:
        """Replies, what was typed and what was heard, in order."""
        # What was said above the reply to it, where both are told at once.
        return sorted([*self.heard, *self.typed, *self.replies], key=begins_at)

    @property
    def num_online_replies(self) -> int:
        """Replies whose text left the machine, as an online voice read it."""
        return sum(r.playback is not None and r.playback.is_online for r in self.replies)


def chunk_end(chunk: int) -> float:
    """Where a chunk ends in the microphone's audio, in seconds."""
    return round((chunk + 1) * CHUNK_SECONDS, 3)


def read_transcript(file: SessionFile) -> Transcript:
    """The transcript of a session file.

    Raises:
        SessionFileError: it was changed since it was opened.
    """
    transcript = Transcript(annotations=file.annotations)
    replies = transcript.replies
    decided_at = 0.0
    speeches, typed_from = Speeches(), math.inf
    for record in file.records():
        match record:
            case DecisionRecord():
                decided_at = record.at
                transcript.decisions.append(record)
                # What is typed is read to the model, which hears it, until it is answered.
                is_typed = record.chunk >= typed_from
                heard = [] if is_typed else [word.piece() for word in record.words or ()]
                transcript.heard += speeches.hear(record.chunk, heard, is_answered=record.speak)
                if is_typed and record.speak:
                    typed_from = math.inf
                if record.speak:
                    reply = RecordedReply(
                        turn=len(replies),
                        chunk=record.chunk,
                        seconds=chunk_end(record.chunk),
                        is_requested=record.cause is Cause.REQUESTED,
                    )
                    replies.append(reply)
            case TokenRecord():
                reply = replies[record.turn]
                reply.emotion = reply.emotion or record.emotion
                reply.status = record.status
                if record.text:
                    reply.pieces.append(TimedText(record.text, max(0.0, record.at - decided_at)))
            case SettingsRecord():
                transcript.changes.append(SettingsChange(len(transcript.decisions), record))
            case TypedRecord():
                transcript.typed.append(record)
                typed_from = min(typed_from, record.chunk)
            # A turn that there is not is no reason to refuse the rest.
            case BargeInRecord() if record.turn < len(replies):
                replies[record.turn].barge_in = record
            case PlaybackRecord() if record.turn < len(replies):
                replies[record.turn].playback = record
            case LatencyRecord() if record.turn < len(replies):
                replies[record.turn].latency = record
            case FailedRecord():
                transcript.failure = record.message
    transcript.heard += speeches.end()
    # Of one that was cut off, the sound of a reply may be there and not the chunk it answers.
    for turn in (turn for turn in file.reply_turns if turn < len(replies)):
        replies[turn].sound_seconds = file.reply_seconds(turn)
    return transcript


def _whole_words(text: str, length: int) -> str:
    """The beginning of `text`, without a word that is only begun."""
    if length >= len(text):
        return text
    if " " not in text:
        return text[:length]  # Chinese has no spaces
    return text[: text.rfind(" ", 0, length + 1) + 1].rstrip() if length else ""


# As JSON: what the exported page and the replay page show


def summary_fields(file: SessionFile) -> Fields:
    """What a recording is, in a few words.

    Raises:
        SessionFileError: the file was changed since it was opened.
    """
    manifest, transcript = file.manifest, read_transcript(file)
    return {
        "title": manifest.title,
        "started_at": manifest.started_at.isoformat(timespec="seconds"),
        "seconds": round(file.seconds, 3),
        "bytes": file.num_bytes,
        "is_complete": file.is_complete,
        "checkpoint": manifest.checkpoint.model_dump(),
        "num_replies": len(transcript.replies),
        "annotations": _annotation_counts(file.annotations),
        "left_machine": {"online_voice_replies": transcript.num_online_replies},
    }


def _annotation_counts(annotations: Annotations) -> dict[str, int]:
    verdicts = [annotation.verdict for annotation in annotations]
    return {
        "right": verdicts.count("right"),
        "wrong": verdicts.count("wrong"),
        "notes": sum(annotation.note != "" for annotation in annotations),
    }


def transcript_json(file: SessionFile) -> bytes:
    """The transcript as JSON in UTF-8.

    Raises:
        SessionFileError: the file was changed since it was opened.
    """
    fields = transcript_fields(file, read_transcript(file))
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def transcript_fields(file: SessionFile, transcript: Transcript) -> Fields:
    """All of a transcript for JSON; times are seconds of the microphone's sound, but for `at`.

    Raises:
        SessionFileError: it was changed since it was opened.
    """
    manifest = file.manifest
    return {
        "seconds": round(file.seconds, 3),
        "chunk_seconds": CHUNK_SECONDS,
        "peaks_per_chunk": PEAKS_PER_CHUNK,
        "peaks": list(_peaks(file)),
        "settings": _settings_fields(manifest),
        "decisions": [_decision_fields(decision) for decision in transcript.decisions],
        "said": [_entry_fields(entry) for entry in transcript.entries()],
        "barge_ins": [
            reply.barge_in.model_dump(include={"turn", "onset_seconds", "silence_ms"})
            for reply in transcript.replies
            if reply.barge_in is not None
        ],
        "settings_changes": [
            {"chunk": change.chunk, **_settings_fields(change.settings)}
            for change in transcript.changes
        ],
        "annotations": [annotation.model_dump() for annotation in file.annotations],
        "forked_at_chunk": manifest.forked_at_chunk,
        "failure": transcript.failure,
    }


def _settings_fields(stated: Manifest | SettingsRecord) -> Fields:
    return {
        "system_prompt": stated.system_prompt,
        # As text: JavaScript's numbers do not reach 2^63.
        "seed": str(stated.seed),
        **stated.drawing.model_dump(),
    }


def _decision_fields(decision: DecisionRecord) -> Fields:
    return {
        "probability": round(decision.probability, 4),
        "threshold": round(decision.threshold, 4),
        "logits": [round(logit, 3) for logit in decision.logits],
        "milliseconds": round(decision.milliseconds, 1),
        "positions": decision.positions,
        "at": round(decision.at, 3),
    }


_NO_REPLY: Fields = {
    "turn": None,
    "emotion": None,
    "status": None,
    "is_requested": False,
    "note": "",
    "latency": None,
    "cut_at_ms": None,
    "heard_text": None,
    "spoken": None,
}
"""What is said to the model has the fields of a reply, and nothing in those that are its own."""


def _entry_fields(entry: Entry) -> Fields:
    start = begins_at(entry)
    told: Fields = {"chunk": entry.chunk, "seconds": start}
    match entry:
        case TypedRecord():
            pieces = [[0, entry.text]]
            return told | {"kind": "typed", "end": start + 1, "pieces": pieces} | _NO_REPLY
        case HeardSpeech():
            pieces = [[round(p.start_seconds - start, 2), p.text] for p in entry.pieces]
            return told | {"kind": "heard", "end": entry.end_seconds, "pieces": pieces} | _NO_REPLY
        case RecordedReply():
            return told | _reply_fields(entry)


def _reply_fields(reply: RecordedReply) -> Fields:
    latency, playback = reply.latency, reply.playback
    return {
        "kind": "reply",
        "end": round(reply.ends_at_seconds, 2),
        "pieces": [[round(piece.seconds, 2), piece.text] for piece in reply.pieces],
        "turn": reply.turn,
        "emotion": reply.emotion,
        "status": reply.told_status,
        "is_requested": reply.is_requested,
        "note": reply.note,
        "latency": latency and latency.model_dump(exclude={"type", "at", "turn"}),
        "cut_at_ms": reply.cut_after_ms,
        "heard_text": None if reply.cut_after_ms is None else reply.heard_text,
        "spoken": playback
        and playback.model_dump(include={"starts_at_seconds", "voice", "is_online"}),
    }


def _peaks(file: SessionFile) -> Iterator[int]:
    """The loudness that is drawn, 0 to 100: the root makes quiet sounds visible."""
    for chunk in file.chunks():
        for peak in np.abs(chunk.reshape(PEAKS_PER_CHUNK, -1)).max(axis=1):
            yield round(100 * float(np.sqrt(peak)))
