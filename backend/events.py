"""What happened in a session, as typed facts. Every front end translates these."""

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from backend.protocol import Emotion


class TurnStatus(StrEnum):
    """How a turn ended."""

    COMPLETED = "completed"
    """The model said TEXT_END."""
    CANCELLED = "cancelled"
    """The listener stopped it."""
    INCOMPLETE = "incomplete"
    """It reached the longest reply allowed."""


@dataclass(frozen=True, slots=True)
class HeardPiece:
    """A piece of a word that the model has heard; what it has heard it never takes back."""

    text: str
    """As it goes on from the piece before: one that begins a word begins with a space."""
    start_seconds: float
    """Where in what the session has heard."""
    end_seconds: float
    """Where its sound, as far as it was heard by then, ends."""


def text_of(pieces: Iterable[str]) -> str:
    """What pieces of words amount to, as people write it."""
    return unicodedata.normalize("NFC", " ".join("".join(pieces).split()))


@dataclass(frozen=True, slots=True)
class Decision:
    """The model heard a chunk and decided. `chunk` counts from 0 in its session."""

    chunk: int
    speak: bool
    speak_probability: float
    """Softmax over the two decision logits at temperature 1, before the session's bias."""
    threshold: float
    """A greedy model speaks above this probability: 0.5 without a bias."""
    milliseconds: float
    """Wall time of the step that heard the chunk."""
    positions: int
    """Positions of the context that are in use now."""
    max_positions: int
    """Positions at which the context rolls."""
    words: tuple[HeardPiece, ...] | None = None
    """What was newly heard; None where the checkpoint has no word head."""
    loudest: float = field(default=-math.inf, compare=False, repr=False)
    """The largest of its log-mel, and of all before it in its session."""
    token_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The one that it is."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A reply begins. `turn` counts from 0; `chunk` is the one that was answered."""

    turn: int
    chunk: int
    emotion: Emotion | None
    """None where the model named none."""
    token_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """Those of the reply that no event before has had."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of a reply: whole characters, never part of one."""

    turn: int
    delta: str
    token_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """Those of the reply that no event before has had."""


@dataclass(frozen=True, slots=True)
class TurnDone:
    """A reply ended. `text` is the join of its deltas."""

    turn: int
    chunk: int
    text: str
    emotion: Emotion | None
    status: TurnStatus
    num_tokens: int = 0
    """That the model has said, the first and the last among them."""
    token_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """Those of the reply that no event before has had."""


@dataclass(frozen=True, slots=True)
class ContextRolled:
    """The context was full: the oldest part was let go so that the session lives on."""

    positions_before: int
    positions_after: int
    chunks: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The numbers of those that stay."""


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """The session cannot go on; `message` is a sentence for its user."""

    message: str
    of_engine: bool = False
    """Whether the engine has failed: no other session can go on either, or be opened."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """Everything that was fed has been heard and said; no event follows."""


Event = Decision | TurnStarted | TextDelta | TurnDone | ContextRolled | SessionFailed | SessionEnded


def json_fields(event: Event, seconds: float) -> dict[str, object] | None:
    """An event as a JSON object; None where it is the engine's own and not about what was heard.

    Args:
        event: what happened.
        seconds: of the recording, at the end of the newest chunk that was heard.
    """
    match event:
        case Decision():
            return {
                "event": "decision",
                "chunk": event.chunk,
                "seconds": seconds,
                "speak": event.speak,
                "speak_probability": event.speak_probability,
                "milliseconds": round(event.milliseconds, 3),
            }
        case TurnStarted():
            return {
                "event": "turn_started",
                "turn": event.turn,
                "chunk": event.chunk,
                "seconds": seconds,
                "emotion": event.emotion,
            }
        case TextDelta():
            return {"event": "text_delta", "turn": event.turn, "delta": event.delta}
        case TurnDone():
            return {
                "event": "turn_done",
                "turn": event.turn,
                "text": event.text,
                "emotion": event.emotion,
                "chunk": event.chunk,
            }
        case ContextRolled() | SessionFailed() | SessionEnded():
            return None
