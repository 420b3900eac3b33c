"""One key/value cache for all sessions: a row (slot) each, and attention that reads it in place.

Positions of a session are written in order from 0, and a query at position `p` sees the indices up
to `p` only. So whatever a slot held before, and whatever lies behind its present length, is
invisible without any bookkeeping: a freed slot can be reused as it is.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, Cache, Qwen2Config

ATTENTION_NAME = "packed_gqa"
KEY_STEP = 64


@dataclass(frozen=True, slots=True)
class StepShape:
    """Which part of the cache one forward pass reads and writes."""

    slots: slice
    """The rows of the pass: contiguous, so that the cache is read without a copy."""
    positions: Tensor
    """`[rows, steps]`, where each row's new keys and values go."""
    keys: slice
    """The indices that are read."""


class SlotCache(Cache):
    """Keys and values `[slots, kv_heads, positions, head_size]` per layer.

    Rows of a pass that have nothing to say write to scratch positions behind `max_positions`,
    which no query ever sees.
    """

    def __init__(
        self,
        config: Qwen2Config,
        num_slots: int,
        max_positions: int,
        scratch_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(layers=[])
        shape = (
            num_slots,
            config.num_key_value_heads,
            max_positions + scratch_positions,
            config.head_dim,
        )
        # Zeros, not empty: a masked key of weight 0 times a NaN of fresh memory would be a NaN.
        self.keys = [
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)
        ]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.max_positions = max_positions
        self._row_ids = torch.arange(num_slots, device=device)[:, None]
        self._step: StepShape | None = None

    def begin_step(self, step: StepShape) -> None:
        """Say where the next forward pass reads and writes."""
        self._step = step

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store `[rows, kv_heads, steps, head_size]`; return the rows' keys and values so far."""
        assert self._step is not None, "begin_step comes before a forward pass"
        step = self._step
        keys, values = self.keys[layer_idx][step.slots], self.values[layer_idx][step.slots]
        row_ids = self._row_ids[: keys.shape[0]]
        keys.transpose(1, 2)[row_ids, step.positions] = key_states.transpose(1, 2)
        values.transpose(1, 2)[row_ids, step.positions] = value_states.transpose(1, 2)
        return keys[:, :, step.keys], values[:, :, step.keys]

    def wipe(self, slot: int) -> None:
        """Zero a slot."""
        for stored in (*self.keys, *self.values):
            stored[slot].zero_()

    def keys_for(
        self, first_position: int, last_position: int, sliding_window: int | None
    ) -> slice:
        """Which indices queries from `first_position` to `last_position` see: a few fixed edges."""
        start = 0 if sliding_window is None else max(0, first_position - sliding_window + 1)
        stop = (last_position // KEY_STEP + 1) * KEY_STEP
        return slice(start // KEY_STEP * KEY_STEP, min(stop, self.max_positions))


def packed_mask(
    positions: Tensor,
    keys: slice,
    sliding_window: int | None,
    num_groups: int,
    dtype: torch.dtype,
) -> Tensor:
    """Additive mask for `packed_gqa_attention`.

    Args:
        positions: `[rows, steps]` positions of the queries.
        keys: the indices that are read.
        sliding_window: how many positions back a query sees, itself included; None for all.
        num_groups: query heads per key/value head.
        dtype: of the queries.

    Returns:
        `[rows, 1, groups * steps, keys]`, 0 where a query sees a key.
    """
    query = positions[:, :, None]
    key = torch.arange(keys.start, keys.stop, device=positions.device)
    visible = key <= query
    if sliding_window is not None:
        visible &= key > query - sliding_window
    mask = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
    mask.masked_fill_(~visible, torch.finfo(dtype).min)
    return mask.repeat(1, num_groups, 1)[:, None]


def packed_gqa_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Grouped-query attention that never repeats keys or values.

    The query heads that share a key/value head are laid behind one another as further queries of
    that head: the library's own path copies keys and values once per query head instead.

    Args:
        module: the attention layer.
        query: `[rows, heads, steps, head_size]`.
        key: `[rows, kv_heads, keys, head_size]`, likewise `value`.
        attention_mask: from `packed_mask`.
        scaling: of the scores.

    Returns:
        `[rows, steps, heads, head_size]` and no weights.
    """
    num_kv_heads, steps = key.shape[1], query.shape[2]
    packed = query.unflatten(1, (num_kv_heads, -1)).flatten(2, 3)
    mixed = F.scaled_dot_product_attention(
        packed, key, value, attn_mask=attention_mask, scale=scaling
    )
    return mixed.unflatten(2, (-1, steps)).flatten(1, 2).transpose(1, 2), None


def register_packed_attention() -> None:
    """Make `packed_gqa` known to the library; calling it again changes nothing."""
    AttentionInterface.register(ATTENTION_NAME, packed_gqa_attention)
