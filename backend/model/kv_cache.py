"""One key/value cache for all sessions: a slot each, and attention that reads every slot in place.

Positions of a slot are written in order from 0, and a query reads what lies before it and no more.
So whatever a slot held before, and whatever lies behind its present length, is invisible without
any bookkeeping: a freed slot can be used again as it is, and a row costs what its own length costs,
wherever in the cache it lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one slot holds, and how a query sees it."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    max_positions: int
    sliding_window: int | None
    """How many positions back a query sees, itself included; None for all."""

    @property
    def num_groups(self) -> int:
        """Query heads per key/value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def span(self) -> int:
        """The most positions that one query sees."""
        return min(self.sliding_window or self.max_positions, self.max_positions)


@dataclass(frozen=True, slots=True)
class CacheRow:
    """Consecutive positions of one slot that a forward pass computes."""

    slot: int
    start: int
    steps: int

    @property
    def end(self) -> int:
        """The position after the last."""
        return self.start + self.steps


class SlotCache:
    """Keys and values `[slots, layers, 2, kv_heads, positions, head_size]`."""

    def __init__(
        self, shape: CacheShape, num_slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        sizes = (shape.num_layers, 2, shape.num_kv_heads, shape.max_positions, shape.head_size)
        # Not zeroed: nothing is read before it is written, and memory is taken as it is used.
        storage = torch.empty(num_slots, *sizes, dtype=dtype, device=device)
        self.layers = storage.unbind(1)
        """Of each layer `[places, 2, kv_heads, positions, head_size]`."""
        self._slots = list(storage.unbind(0))
        self._places = list(range(num_slots))
        self._masks: dict[int, Tensor] = {}

    def view(self, slot: int, start: int, end: int) -> Tensor:
        """Positions of a slot, `[layers, 2, kv_heads, end - start, head_size]`, without a copy."""
        assert 0 <= start < end <= self.shape.max_positions, f"there are no {start} to {end}"
        return self._slots[slot].narrow(3, start, end - start)

    def place(self, slot: int) -> int:
        """Where in `layers` a slot lies."""
        return self._places[slot]

    def exchange(self, slot: int, other: int) -> None:
        """Let each of two slots hold what the other one held; nothing is copied."""
        slots, places = self._slots, self._places
        slots[slot], slots[other] = slots[other], slots[slot]
        places[slot], places[other] = places[other], places[slot]

    def mask(self, steps: int, num_keys: int) -> Tensor | None:
        """What the queries of a row see of the keys that end with its last position.

        Which keys a query sees depends on their distance alone, so one mask for each number of
        steps serves rows of all lengths: they take its right end.

        Args:
            steps: of the row.
            num_keys: those that are read for it.

        Returns:
            an additive mask `[groups * steps, num_keys]`; None where a query sees all of them.
        """
        if steps == 1:
            return None
        mask = self._masks.get(steps)
        if mask is None:
            mask = self._masks[steps] = self._widest_mask(steps)
        return mask[:, mask.shape[1] - num_keys :]

    def _widest_mask(self, steps: int) -> Tensor:
        shape = self.shape
        num_keys = min(shape.span - 1 + steps, shape.max_positions)
        distance = torch.arange(num_keys - steps, num_keys)[:, None] - torch.arange(num_keys)
        is_seen = (distance >= 0) & (distance < shape.span)
        mask = torch.zeros(steps, num_keys).masked_fill_(~is_seen, -torch.inf)
        return mask.repeat(shape.num_groups, 1).to(self._slots[0])


class Attention(Protocol):
    """Attention of the rows of one pass, each over its own slot."""

    def store(self, layer: int, keys_values: Tensor) -> None:
        """Write the rows' keys and values `[positions, 2, kv_heads, head_size]`."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Queries `[positions, heads, head_size]` to `[positions, heads * head_size]`."""

    def attend_last(self, layer: int, queries: Tensor) -> Tensor:
        """The same for the last position of each of the first rows, `[rows, heads, head_size]`."""


class RowAttention:
    """Attention row by row: a few launches for each, over as many keys as it sees.

    All rows are stored before any is read, so rows of one slot may follow each other in a pass.
    """

    def __init__(self, cache: SlotCache, rows: Sequence[CacheRow]) -> None:
        self._num_groups = cache.shape.num_groups
        self._span = cache.shape.span
        self._rows = rows
        self._steps = [row.steps for row in rows]
        self._stored = [cache.view(row.slot, row.start, row.end).unbind(0) for row in rows]
        first_seen = [max(0, row.start - self._span + 1) for row in rows]
        # Of each layer keys, then values, `[1, kv_heads, positions, head_size]` each.
        self._seen = [
            cache.view(row.slot, first, row.end).flatten(0, 1).unsqueeze(1).unbind(0)
            for row, first in zip(rows, first_seen, strict=True)
        ]
        self._masks = [
            cache.mask(row.steps, row.end - first)
            for row, first in zip(rows, first_seen, strict=True)
        ]

    def store(self, layer: int, keys_values: Tensor) -> None:
        """Write the rows' keys and values `[positions, 2, kv_heads, head_size]`."""
        of_rows = keys_values.permute(1, 2, 0, 3).split(self._steps, 2)
        for stored, of_row in zip(self._stored, of_rows, strict=True):
            stored[layer].copy_(of_row)

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Queries `[positions, heads, head_size]` to `[positions, heads * head_size]`."""
        of_rows = self._by_head(queries).split(self._steps, 2)
        return _by_position(
            [
                _mixed(of_row, seen[2 * layer], seen[2 * layer + 1], mask)
                for of_row, seen, mask in zip(of_rows, self._seen, self._masks, strict=True)
            ]
        )

    def attend_last(self, layer: int, queries: Tensor) -> Tensor:
        """The same for the last position of each of the first rows, `[rows, heads, head_size]`."""
        mixed = []
        of_rows = self._by_head(queries).split(1, 2)
        for of_row, row, seen in zip(of_rows, self._rows, self._seen, strict=False):
            # Of what the whole row sees, the last position may be too far from the first.
            num_seen = min(row.end, self._span)
            keys, values = (some[:, :, -num_seen:] for some in seen[2 * layer : 2 * layer + 2])
            mixed.append(_mixed(of_row, keys, values, None))
        return _by_position(mixed)

    def _by_head(self, queries: Tensor) -> Tensor:
        """`[kv_heads, groups, positions, head_size]`."""
        positions, _, size = queries.shape
        return queries.view(positions, -1, self._num_groups, size).permute(1, 2, 0, 3)


def _mixed(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """One row's `[kv_heads, groups, steps, head_size]`, as `queries` are.

    Query heads that share a key/value head are laid behind one another as further queries of that
    head: so keys and values are never repeated.
    """
    num_kv_heads, groups, steps, size = queries.shape
    packed = queries.reshape(1, num_kv_heads, groups * steps, size)
    mixed: Tensor = F.scaled_dot_product_attention(packed, keys, values, attn_mask=mask)
    return mixed.view(queries.shape)


def _by_position(mixed: list[Tensor]) -> Tensor:
    """What all rows have mixed, `[positions, heads * head_size]`."""
    joined = mixed[0] if len(mixed) == 1 else torch.cat(mixed, 2)
    return joined.permute(2, 0, 1, 3).flatten(1)
