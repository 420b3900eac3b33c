"""Attention whose rows find their slots in tables on the device: one launch for all of a length.

Nothing on the host depends on where slots lie or how long they are, so a pass over so many rows is
the same launches whatever they are, and can be recorded as a CUDA graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.config import LISTENING_POSITIONS
from backend.model.kv_cache import SlotCache


@dataclass(frozen=True, slots=True)
class PassSize:
    """How many rows a pass has: long ones first, then short ones."""

    long_rows: int
    """Of 13 positions, as a chunk is heard with."""
    short_rows: int
    """Of 1 position."""

    @property
    def num_rows(self) -> int:
        """All of them."""
        return self.long_rows + self.short_rows

    @property
    def long_positions(self) -> int:
        """Of the long rows."""
        return LISTENING_POSITIONS * self.long_rows

    @property
    def num_positions(self) -> int:
        """Of all rows."""
        return self.long_positions + self.short_rows


@dataclass(frozen=True, slots=True)
class RowTables:
    """Where rows are in the cache, `[rows]` int64 each, on its device.

    A row may be filled to a part of its length. What is behind that is padding, and so is a whole
    row that is not used: they see what others see, and nothing reads what comes of them.
    """

    places: Tensor
    """In the cache's layers."""
    starts: Tensor
    """The first position of each."""
    ends: Tensor
    """The position after the last that is filled; beyond `starts`."""

    def rows(self, begin: int, end: int) -> "RowTables":
        """Some of the rows."""
        return RowTables(self.places[begin:end], self.starts[begin:end], self.ends[begin:end])


Attend = Callable[[Tensor, Tensor, RowTables, int | None, Tensor], None]
"""Queries `[rows * steps, heads, head_size]` over one of the cache's layers, the rows' tables, a
window, and where the mix `[rows * steps, heads * head_size]` is to be written."""


class SlotAttention:
    """Attention of one pass; see `Attention` for its members.

    Args:
        cache: whose slots are read.
        size: of the pass.
        tables: of its rows.
        stored: `[2, positions]` int64: place and position that each position is written to.
        attend: computes it.
    """

    def __init__(
        self, cache: SlotCache, size: PassSize, tables: RowTables, stored: Tensor, attend: Attend
    ) -> None:
        self._cache = cache
        self._size = size
        self._long = tables.rows(0, size.long_rows)
        self._short = tables.rows(size.long_rows, size.num_rows)
        self._last = RowTables(tables.places, tables.ends - 1, tables.ends)
        self._stored_places, self._stored_positions = stored.unbind(0)
        self._attend = attend

    def store(self, layer: int, keys_values: Tensor) -> None:
        """Write keys and values; those of padding go to where they are told to."""
        by_position = self._cache.layers[layer].permute(0, 3, 1, 2, 4)
        by_position[self._stored_places, self._stored_positions] = keys_values

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Long rows, then short ones."""
        mixed = queries.new_empty(len(queries), queries[0].numel())
        num_long = self._size.long_positions
        self._mix(layer, queries[:num_long], self._long, mixed[:num_long])
        self._mix(layer, queries[num_long:], self._short, mixed[num_long:])
        return mixed

    def attend_last(self, layer: int, queries: Tensor) -> Tensor:
        """All rows, as rows of one position."""
        mixed = queries.new_empty(len(queries), queries[0].numel())
        self._mix(layer, queries, self._last, mixed)
        return mixed

    def _mix(self, layer: int, queries: Tensor, tables: RowTables, mixed: Tensor) -> None:
        if len(queries):
            window = self._cache.shape.sliding_window
            self._attend(queries, self._cache.layers[layer], tables, window, mixed)


def attend_plainly(
    queries: Tensor, layer: Tensor, tables: RowTables, window: int | None, mixed: Tensor
) -> None:
    """Attention on any device: it copies the rows' slots, as long as slots are."""
    num_rows, steps = len(tables.places), len(queries) // len(tables.places)
    num_groups = queries.shape[1] // layer.shape[2]
    keys = torch.arange(layer.shape[3], device=layer.device)
    last = tables.ends[:, None] - 1
    query = torch.minimum(tables.starts[:, None] + torch.arange(steps, device=keys.device), last)
    is_seen = keys <= query[:, :, None]
    if window is not None:
        is_seen &= keys > query[:, :, None] - window
    # Where no query looks may be anything, also what is no number.
    is_read = is_seen.any(1)[:, None, None, :, None]
    keys_values = layer[tables.places].masked_fill_(~is_read, 0.0)
    packed = queries.unflatten(0, (num_rows, steps)).unflatten(2, (-1, num_groups))
    packed = packed.permute(0, 2, 3, 1, 4).flatten(2, 3)
    mask = is_seen.repeat(1, num_groups, 1)[:, None]
    found = F.scaled_dot_product_attention(
        packed, keys_values[:, 0], keys_values[:, 1], attn_mask=mask
    )
    by_step = found.unflatten(2, (num_groups, steps)).permute(0, 3, 1, 2, 4)
    mixed.copy_(by_step.reshape(mixed.shape))


def attention_for(device: torch.device) -> Attend:
    """The fastest way that there is on a device."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from backend.model.slot_kernel import LEAST_CAPABILITY, attend_with_kernel

        if torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY:
            return attend_with_kernel
    return attend_plainly
