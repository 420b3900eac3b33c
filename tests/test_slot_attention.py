"""Attention by slot tables against attention row by row: in plain torch, and as a kernel.

The kernel runs in Triton's interpreter, which `tests/__init__.py` chooses.
"""

import pytest
import torch

from backend.model.kv_cache import CacheRow, CacheShape, RowAttention, SlotCache
from backend.model.slot_attention import (
    Attend,
    PassSize,
    RowTables,
    SlotAttention,
    attend_plainly,
)
from backend.model.slot_kernel import attend_with_kernel

LAYERS, HEADS, KV_HEADS, POSITIONS, SLOTS = 2, 4, 2, 700, 40
SCRATCH = SLOTS - 1
WAYS = {"plain": attend_plainly, "kernel": attend_with_kernel}


def cache_of(window: int | None, head_size: int, dtype: torch.dtype = torch.float32) -> SlotCache:
    """Filled with what no query must see."""
    shape = CacheShape(LAYERS, HEADS, KV_HEADS, head_size, POSITIONS, window)
    cache = SlotCache(shape, SLOTS, dtype, torch.device("cpu"))
    for layer in cache.layers:
        layer.fill_(torch.nan)
    return cache


def heard_before(cache: SlotCache, rows: list[CacheRow]) -> None:
    """Let each row's slot hold what comes before it, and what no window reaches be no number."""
    for row in rows:
        seen = max(0, row.start - cache.shape.span + 1)
        if row.start > seen:
            view = cache.view(row.slot, seen, row.start)
            view.copy_(torch.randn(view.shape))


class Pass:
    """Rows as both kinds of attention take them: the second and the last are not full."""

    ROWS = (
        CacheRow(37, 601, 13),
        CacheRow(0, 0, 5),
        CacheRow(5, 270, 13),
        CacheRow(5, 283, 13),
        CacheRow(38, 0, 1),
        CacheRow(2, 699, 1),
    )
    SIZE = PassSize(long_rows=5, short_rows=3)

    def __init__(self) -> None:
        torch.manual_seed(0)
        steps = [13] * self.SIZE.long_rows + [1] * self.SIZE.short_rows
        long, short = list(self.ROWS[:4]), list(self.ROWS[4:])
        padded = [*long, None, *short, None]
        stored, self.filled, self.last = [], [], []
        places, starts, ends = [], [], []
        begin = 0
        for row, length in zip(padded, steps, strict=True):
            count = row.steps if row else 0
            places.append(row.slot if row else SCRATCH)
            starts.append(row.start if row else 0)
            ends.append(row.end if row else 1)
            for step in range(length):
                is_filled = row is not None and step < count
                where = (row.slot, row.start + step) if row and is_filled else (SCRATCH, step)
                stored.append(where)
                if is_filled:
                    self.filled.append(begin + step)
            self.last.append(begin + max(count - 1, 0))
            begin += length
        self.is_used = [row is not None for row in padded]
        self.stored = torch.tensor(stored).T
        self.tables = RowTables(*(torch.tensor(table) for table in (places, starts, ends)))

    def attention(self, cache: SlotCache, attend: Attend) -> SlotAttention:
        return SlotAttention(cache, self.SIZE, self.tables, self.stored, attend)


@pytest.mark.parametrize(
    ("way", "window", "head_size"),
    [
        ("plain", None, 16),
        ("plain", 200, 20),
        ("plain", 5, 16),
        ("kernel", None, 20),
        ("kernel", 100, 16),
    ],
)
def test_rows_by_tables_equal_rows_one_by_one(way: str, window: int | None, head_size: int) -> None:
    given = Pass()
    cache = cache_of(window, head_size)
    heard_before(cache, list(given.ROWS))
    # As the decoder gives them: queries, keys and values of a position lie behind one another.
    mixed = torch.randn(given.SIZE.num_positions, HEADS + 2 * KV_HEADS, head_size)
    queries, newest = mixed[:, :HEADS], mixed[:, HEADS:].unflatten(1, (2, -1))
    by_row = RowAttention(cache, given.ROWS)
    by_table = given.attention(cache, WAYS[way])
    used = [row for row, is_used in enumerate(given.is_used) if is_used]
    last = [given.last[row] for row in used]
    for layer in range(1, LAYERS):
        by_row.store(layer, newest[given.filled])
        expected = by_row.attend(layer, queries[given.filled])
        expected_last = by_row.attend_last(layer, queries[last])
        by_table.store(layer, newest)
        found = by_table.attend(layer, queries)
        found_last = by_table.attend_last(layer, queries[given.last])
        torch.testing.assert_close(found[given.filled], expected, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(found_last[used], expected_last, atol=2e-6, rtol=1e-5)
