"""What a server counts of its work: plain numbers, which cost a chunk next to nothing."""

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate

from backend.events import (
    ContextRolled,
    Decision,
    Event,
    SessionFailed,
    TurnDone,
    TurnStatus,
)

SLICE_SECONDS = 5.0
NUM_SLICES = 12
"""Together a minute: the last of them is not over."""
FINENESS = 1.1
"""A quantile is at most by this factor too large, and never too small."""
EDGES = tuple(0.001 * FINENESS**number for number in range(128))
"""Of the bins, in seconds: from a millisecond to a few minutes."""


class Durations:
    """Counts durations by their length; to note one costs the same, however many there are."""

    def __init__(self) -> None:
        self.counts = [0] * len(EDGES)
        """How many there were up to each of `EDGES`, and beyond the edge before it."""
        self.sum_seconds = 0.0

    def note(self, seconds: float) -> None:
        """Something took so long."""
        self.counts[min(bisect_left(EDGES, seconds), len(EDGES) - 1)] += 1
        self.sum_seconds += seconds


@dataclass(slots=True)
class _Slice:
    """Some seconds, and what was noted in them."""

    number: int
    durations: Durations = field(default_factory=Durations)


class Lateness:
    """How late decisions are: in all, and in the last minute.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = Durations()
        """Since the beginning."""
        self._clock = clock
        self._slices: deque[_Slice] = deque(maxlen=NUM_SLICES)

    def note(self, seconds: float) -> None:
        """A decision was so late."""
        number = self._number()
        if not self._slices or self._slices[-1].number != number:
            self._slices.append(_Slice(number))
        self._slices[-1].durations.note(seconds)
        self.total.note(seconds)

    def quantiles(self, *shares: float) -> list[float] | None:
        """Within how many seconds these shares of the last minute's decisions came.

        None where there was none.
        """
        oldest = self._number() - NUM_SLICES
        recent = [s.durations.counts for s in self._slices if s.number > oldest]
        sums = list(accumulate(map(sum, zip(*recent, strict=True))))
        if not sums:
            return None
        return [EDGES[bisect_left(sums, share * sums[-1])] for share in shares]

    def _number(self) -> int:
        return int(self._clock() // SLICE_SECONDS)


class StepKind(StrEnum):
    """What a step of the engine is about."""

    LISTENING = "listening"
    """Chunks are heard; tokens and pieces of contexts come along."""
    SPEAKING = "speaking"
    """Tokens are said, and no chunk is heard."""
    REFILLING = "refilling"
    """Contexts are computed anew, and nothing else."""


class EngineCounts:
    """What an engine has done. Its thread counts; others may read at any time."""

    def __init__(self) -> None:
        self.steps = {kind: Durations() for kind in StepKind}
        self.num_tokens = 0
        """Of replies, those that open and close them among them."""
        self.num_chunks = 0
        """That were decided on."""
        self.num_replies: Counter[TurnStatus] = Counter()
        """That have ended, by how."""
        self.num_rolls = 0
        """Of contexts that were full."""
        self.num_failures = 0
        """Conversations that the model failed on."""

    def note(self, event: Event) -> None:
        """Something happened in a conversation."""
        match event:
            case Decision():
                self.num_chunks += 1
            case TurnDone():
                self.num_replies[event.status] += 1
            case ContextRolled():
                self.num_rolls += 1
            case SessionFailed():
                self.num_failures += 1


class ConversationCounts:
    """What all conversations of a server have had. Belongs to its event loop.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lateness = Lateness(clock)
        """Of the decisions in all of them."""
        self.num_begun = 0
        self.num_failures = 0
        """Conversations that ended, or could not begin, by a fault of the server's."""
        self.num_fallbacks = 0
        """Replies of which another voice said something, as the chosen one could not."""
        self.num_voiceless = 0
        """Replies of which no voice could say the rest."""
