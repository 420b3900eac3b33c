"""A recorded conversation as people read it: who said what, when. Needs no model."""

from dataclasses import dataclass, field

from backend.config import CHUNK_SECONDS
from backend.events import TurnStatus
from backend.protocol import Emotion
from backend.recordings.reader import SessionFile
from backend.recordings.records import (
    BargeInRecord,
    DecisionRecord,
    FailedRecord,
    LatencyRecord,
    PlaybackRecord,
    SettingsRecord,
    TokenRecord,
    TypedRecord,
)
from backend.trace import Cause

READING_CHARACTERS_PER_SECOND = 15
SHORTEST_SHOWN_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a reply, and when it came after the reply's first token."""

    text: str
    seconds: float


@dataclass(slots=True)
class Reply:
    """One reply. Times are seconds of the microphone's audio."""

    turn: int
    chunk: int
    seconds: float
    """The end of the chunk that it answers."""
    is_requested: bool
    emotion: Emotion | None = None
    status: TurnStatus | None = None
    """None where the recording ended before the reply did."""
    pieces: list[Piece] = field(default_factory=list)
    barge_in: BargeInRecord | None = None
    playback: PlaybackRecord | None = None
    latency: LatencyRecord | None = None

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def shown_seconds(self) -> float:
        """How long it takes to read."""
        return max(SHORTEST_SHOWN_SECONDS, len(self.text) / READING_CHARACTERS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """Other settings, and the first chunk that was decided on by them."""

    chunk: int
    settings: SettingsRecord


@dataclass(slots=True)
class Story:
    """What happened, reply by reply and chunk by chunk."""

    replies: list[Reply] = field(default_factory=list)
    typed: list[TypedRecord] = field(default_factory=list)
    decisions: list[DecisionRecord] = field(default_factory=list)
    """One per chunk."""
    changes: list[SettingsChange] = field(default_factory=list)
    failure: str | None = None

    @property
    def num_online_replies(self) -> int:
        """Replies whose text left the machine, as an online voice read it."""
        return sum(r.playback is not None and r.playback.is_online for r in self.replies)


def chunk_end(chunk: int) -> float:
    """Where a chunk ends in the microphone's audio, in seconds."""
    return round((chunk + 1) * CHUNK_SECONDS, 3)


def read_story(file: SessionFile) -> Story:
    """The story that a session file tells.

    Raises:
        SessionFileError: it was changed since it was opened.
    """
    story = Story()
    decided_at = 0.0
    for record in file.records():
        match record:
            case DecisionRecord():
                decided_at = record.at
                story.decisions.append(record)
                if record.speak:
                    story.replies.append(_opened(len(story.replies), record))
            case TokenRecord():
                reply = story.replies[record.turn]
                reply.emotion = reply.emotion or record.emotion
                reply.status = record.status
                if record.text:
                    reply.pieces.append(Piece(record.text, max(0.0, record.at - decided_at)))
            case SettingsRecord():
                story.changes.append(SettingsChange(len(story.decisions), record))
            case TypedRecord():
                story.typed.append(record)
            case BargeInRecord() | PlaybackRecord() | LatencyRecord():
                _add_to_reply(story, record)
            case FailedRecord():
                story.failure = record.message
    return story


def _opened(turn: int, decision: DecisionRecord) -> Reply:
    return Reply(
        turn=turn,
        chunk=decision.chunk,
        seconds=chunk_end(decision.chunk),
        is_requested=decision.cause is Cause.REQUESTED,
    )


def _add_to_reply(story: Story, record: BargeInRecord | PlaybackRecord | LatencyRecord) -> None:
    # A turn that there is not is no reason to refuse the rest.
    if record.turn >= len(story.replies):
        return
    reply = story.replies[record.turn]
    match record:
        case BargeInRecord():
            reply.barge_in = record
        case PlaybackRecord():
            reply.playback = record
        case LatencyRecord():
            reply.latency = record
