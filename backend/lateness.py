"""How late the decisions of a server's conversations were in the last minute."""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

SLICE_SECONDS = 5.0
NUM_SLICES = 12
"""Together a minute: the last of them is not over."""
FINENESS = 1.1
"""A quantile is at most by this factor too large, and never too small."""
_EDGES = [0.001 * FINENESS**number for number in range(128)]
"""Of the bins, in seconds: from a millisecond to a few minutes."""


@dataclass(slots=True)
class _Slice:
    """Some seconds, and how many decisions of them fell into each bin."""

    number: int
    counts: list[int] = field(default_factory=lambda: [0] * len(_EDGES))


class Lateness:
    """Counts decisions by their lateness; to note one costs the same, however many there are.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slices: deque[_Slice] = deque(maxlen=NUM_SLICES)

    def note(self, seconds: float) -> None:
        """A decision was so late."""
        number = self._number()
        if not self._slices or self._slices[-1].number != number:
            self._slices.append(_Slice(number))
        bin_number = min(bisect_left(_EDGES, seconds), len(_EDGES) - 1)
        self._slices[-1].counts[bin_number] += 1

    def quantiles(self, *shares: float) -> list[float] | None:
        """Within how many seconds these shares of the last minute's decisions came.

        None where there was none.
        """
        oldest = self._number() - NUM_SLICES
        recent = [s.counts for s in self._slices if s.number > oldest]
        sums = list(accumulate(map(sum, zip(*recent, strict=True))))
        if not sums:
            return None
        return [_EDGES[bisect_left(sums, share * sums[-1])] for share in shares]

    def _number(self) -> int:
        return int(self._clock() // SLICE_SECONDS)
