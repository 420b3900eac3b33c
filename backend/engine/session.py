"""One conversation: where it stands, what it has heard, what it is about to say. No torch."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from backend.config import SamplingConfig, SessionSettings
from backend.engine.context import HeardChunk, Refill
from backend.protocol import Emotion, TurnState
from backend.trace import Trace

if TYPE_CHECKING:
    from backend.model.word_head import HeardWords


class Detokenizer:
    """Text of one reply, token by token, never half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished.

        Ids beyond the tokenizer's (the vocabulary is padded) have no text.
        """
        if self._tokenizer.id_to_token(token) is None:
            return ""
        return self._stream.step(self._tokenizer, token) or ""


@dataclass(slots=True)
class Turn:
    """A reply in progress."""

    number: int
    chunk: int
    detokenizer: Detokenizer
    emotion: Emotion | None = None
    is_announced: bool = False
    num_tokens: int = 0
    pieces: list[str] = field(default_factory=list)
    untold: list[int] = field(default_factory=list)
    """Tokens that no event has had yet."""

    def take_untold(self) -> tuple[int, ...]:
        """For the next event."""
        token_ids, self.untold = tuple(self.untold), []
        return token_ids


@dataclass(frozen=True, slots=True)
class PendingChunk:
    """A chunk that is to be heard."""

    samples: npt.NDArray[np.float32]
    """`[6400]`."""
    due_at: float
    """When it would have come if its audio came as it is spoken: who is ahead of that waits."""


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """A reply that somebody asked for; chunks count from 0."""

    since_chunk: int
    """From here on, a reply that the model starts itself will do."""
    at_chunk: int
    """Without one, this chunk is answered."""


@dataclass(frozen=True, slots=True)
class PastChunk:
    """A chunk that was heard elsewhere."""

    number: int
    samples: npt.NDArray[np.float32]
    """`[6400]`."""
    loudest: float
    """The largest of its log-mel, and of all before it."""
    tokens: Sequence[int] | None
    """That followed it; None where it is not in the context, and only the next begins in it."""


@dataclass(frozen=True, slots=True)
class Past:
    """A conversation so far, which another engine had: enough to go on as if there were none."""

    chunks: Sequence[PastChunk]
    """Of the context, in order; each with the one before it."""
    num_turns: int
    num_draws: int
    """Of the seed's numbers."""
    answered_chunk: int | None
    """The latest that a reply followed."""


@dataclass(eq=False, slots=True)
class Session:
    """State of one conversation in the engine."""

    session_id: int
    slot: int
    settings: SessionSettings
    sampling: SamplingConfig
    """The settings' own, or the checkpoint's."""
    max_reply_tokens: int
    """The settings' own, or what the context has room for."""
    prefix: list[int]
    generator: np.random.Generator
    words: "HeardWords | None" = None
    """What it has heard; None where the checkpoint has no word head."""
    state: TurnState = TurnState.LISTENING
    num_positions: int = 0
    """Positions in the cache; the last token of the sequence is not among them yet."""
    context: list[HeardChunk] = field(default_factory=list)
    refill: Refill | None = None
    """The context that is about to take the place of this one."""
    pending_chunks: deque[PendingChunk] = field(default_factory=deque)
    next_due_at: float = -math.inf
    """Of the chunk that is queued next; it may come later."""
    turn: Turn | None = None
    num_chunks_heard: int = 0
    num_turns: int = 0
    answered_chunk: int | None = None
    """The latest chunk that a reply followed."""
    is_interrupted: bool = False
    request: "ReplyRequest | None" = None
    """The reply that is owed whatever the model decides."""
    trace: Trace | None = None
    """Is told of all that happens, where somebody records."""
    is_finished: bool = False
    """No more chunks will come."""
    is_ended: bool = False
    """It takes part in no further step: all is said, or it failed."""

    @property
    def last_token(self) -> int:
        """The newest token of the sequence: the next step feeds it."""
        return self.context[-1].tokens[-1] if self.context else self.prefix[-1]

    @property
    def is_waiting(self) -> bool:
        """Whether its context has to be computed anew before it can go on."""
        return self.refill is not None and self.refill.is_awaited

    @property
    def is_speaking(self) -> bool:
        """Whether it is in a reply."""
        return self.state is not TurnState.LISTENING and not self.is_ended

    @property
    def can_speak(self) -> bool:
        """Whether the next step draws a token of a reply."""
        return self.is_speaking and not self.is_waiting

    @property
    def can_listen(self) -> bool:
        """Whether the next step may hear a chunk."""
        is_listening = self.state is TurnState.LISTENING and not self.is_ended
        return is_listening and bool(self.pending_chunks) and not self.is_waiting

    @property
    def can_end(self) -> bool:
        """Whether everything that was to come has been heard and said, and nobody was told."""
        is_done = self.state is TurnState.LISTENING and not self.pending_chunks
        return self.is_finished and is_done and not self.is_ended

    def draw_uniform(self) -> float:
        """The session's next random number in [0, 1)."""
        return float(self.generator.random())
