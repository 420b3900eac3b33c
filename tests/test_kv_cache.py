"""Attention over the slot cache: what a query sees, and that slots and packing change nothing."""

import pytest
import torch
from torch.nn import functional as F

from backend.model.kv_cache import CacheRow, CacheShape, RowAttention, SlotCache

LAYERS, HEADS, KV_HEADS, HEAD_SIZE, POSITIONS = 2, 6, 2, 8, 60


def cache_of(num_slots: int, window: int | None = None) -> SlotCache:
    """Filled with what no query must see."""
    shape = CacheShape(LAYERS, HEADS, KV_HEADS, HEAD_SIZE, POSITIONS, window)
    cache = SlotCache(shape, num_slots, torch.float32, torch.device("cpu"))
    for slot in range(num_slots):
        cache.view(slot, 0, POSITIONS).fill_(torch.nan)
    return cache


def seen(cache: SlotCache, steps: int, num_keys: int) -> list[list[int]]:
    """Which keys each query of a row sees, counted from the first that is read."""
    mask = cache.mask(steps, num_keys)
    if mask is None:
        return [list(range(num_keys))]
    return [row.isfinite().nonzero()[:, 0].tolist() for row in mask[:steps]]


def test_a_query_sees_the_past_within_its_window() -> None:
    assert seen(cache_of(1), 2, 4) == [[0, 1, 2], [0, 1, 2, 3]]
    assert seen(cache_of(1, window=2), 2, 3) == [[0, 1], [1, 2]]
    assert seen(cache_of(1, window=1), 2, 2) == [[0], [1]]
    assert seen(cache_of(1), 1, 4) == [[0, 1, 2, 3]]


def plain_attention(
    queries: torch.Tensor, keys_values: torch.Tensor, start: int, window: int | None
) -> torch.Tensor:
    """The same with repeated keys and a mask: `[steps, heads, size]` over all positions so far."""
    position = torch.arange(start, start + len(queries))[:, None]
    key = torch.arange(keys_values.shape[0])
    is_seen = key <= position
    if window is not None:
        is_seen &= key > position - window
    keys, values = keys_values.repeat_interleave(HEADS // KV_HEADS, dim=2).unbind(1)
    mixed = F.scaled_dot_product_attention(
        queries.transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1), attn_mask=is_seen
    )
    return mixed.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("slots", [(0, 1, 2), (7, 0, 3)])
def test_packed_rows_equal_each_alone(window: int | None, slots: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    lengths, steps = (47, 1, 31), (13, 1, 5)
    cache = cache_of(8, window)
    given = [torch.randn(length, 2, KV_HEADS, HEAD_SIZE) for length in lengths]
    rows = []
    for slot, keys_values, num_steps in zip(slots, given, steps, strict=True):
        start = len(keys_values) - num_steps
        for first in range(0, start, 13):
            row = CacheRow(slot, first, min(13, start - first))
            before = RowAttention(cache, [row])
            for layer in range(LAYERS):
                before.store(layer, (1 + layer) * keys_values[row.start : row.end])
        rows.append(CacheRow(slot, start, num_steps))
    queries = torch.randn(sum(steps), HEADS, HEAD_SIZE)
    newest = torch.cat([kv[row.start :] for kv, row in zip(given, rows, strict=True)])
    attention = RowAttention(cache, rows)
    for layer in range(LAYERS):
        attention.store(layer, (1 + layer) * newest)
        mixed = attention.attend(layer, queries)
        last = attention.attend_last(layer, queries[[12, 13]])
        expected = torch.cat(
            [
                plain_attention(query, (1 + layer) * keys_values, row.start, window)
                for query, keys_values, row in zip(queries.split(steps), given, rows, strict=True)
            ]
        )
        torch.testing.assert_close(mixed, expected)
        torch.testing.assert_close(last, expected[[12, 13]])


def test_rows_of_one_slot_follow_each_other_in_a_pass() -> None:
    torch.manual_seed(0)
    keys_values = torch.randn(30, 2, KV_HEADS, HEAD_SIZE)
    queries = torch.randn(30, HEADS, HEAD_SIZE)
    attention = RowAttention(
        cache_of(2), [CacheRow(1, 0, 13), CacheRow(1, 13, 13), CacheRow(1, 26, 4)]
    )
    attention.store(0, keys_values)
    torch.testing.assert_close(
        attention.attend(0, queries), plain_attention(queries, keys_values, 0, None)
    )


def test_slots_that_are_exchanged_hold_what_the_other_held() -> None:
    cache = cache_of(3)
    cache.view(0, 0, 1).fill_(1.0)
    cache.view(2, 0, 1).fill_(2.0)
    cache.exchange(0, 2)
    assert cache.view(0, 0, 1).unique().tolist() == [2.0]
    assert cache.view(2, 0, 1).unique().tolist() == [1.0]
