"""Attention over the slot cache: what a query sees, and that packing changes nothing."""

import pytest
import torch
from torch import nn
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

from backend.model.kv_cache import SlotCache, packed_gqa_attention, packed_mask


@pytest.mark.parametrize(
    ("window", "seen"),
    [(None, [[0, 1, 2], [0, 1, 2, 3]]), (2, [[1, 2], [2, 3]]), (1, [[2], [3]])],
)
def test_a_query_sees_the_past_within_its_window(window: int | None, seen: list[list[int]]) -> None:
    mask = packed_mask(torch.tensor([[2, 3]]), slice(0, 6), window, 1, torch.float32)
    assert mask.shape == (1, 1, 2, 6)
    assert [row.nonzero()[:, 0].tolist() for row in mask[0, 0] == 0] == seen


@pytest.mark.parametrize("steps", [1, 13])
def test_packed_attention_equals_repeated_keys(steps: int) -> None:
    torch.manual_seed(0)
    rows, heads, kv_heads, head_size, keys = 3, 8, 2, 16, 40
    query = torch.randn(rows, heads, steps, head_size)
    key, value = torch.randn(2, rows, kv_heads, keys, head_size)
    positions = torch.tensor([5, 20, 26])[:, None] + torch.arange(steps)
    groups = heads // kv_heads
    module = nn.Module()
    module.num_key_value_groups = groups  # type: ignore[assignment]
    packed, _ = packed_gqa_attention(
        module,
        query,
        key,
        value,
        packed_mask(positions, slice(0, keys), None, groups, query.dtype),
        0.25,
    )
    plain, _ = eager_attention_forward(
        module,
        query,
        key,
        value,
        packed_mask(positions, slice(0, keys), None, 1, query.dtype),
        0.25,
    )
    assert packed.shape == (rows, steps, heads, head_size)
    assert torch.allclose(packed, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "last", "window", "keys"),
    [
        (0, 12, None, slice(0, 64)),
        (60, 72, None, slice(0, 128)),
        (190, 199, None, slice(0, 200)),
        (190, 199, 100, slice(64, 200)),
        (10, 22, 100, slice(0, 64)),
    ],
)
def test_only_what_a_query_can_see_is_read(
    first: int, last: int, window: int | None, keys: slice
) -> None:
    config = Qwen2Config(
        hidden_size=8, head_dim=4, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1
    )
    cache = SlotCache(config, 1, 200, 13, torch.float32, torch.device("cpu"))
    assert cache.keys_for(first, last, window) == keys
