"""The language model's forward pass over packed rows of any lengths.

It computes what `Qwen2ForCausalLM` computes, from the same weights, without its modules:
projections that read the same input are one product, and the positions of all rows lie behind one
another, so that a pass costs what its rows cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM

from backend.model.kv_cache import Attention, CacheShape, SlotCache
from backend.model.residual import narrowed, widened
from backend.model.weights import GATE_UP, QKV, Projection, joined_projection, projection


@dataclass(frozen=True, slots=True)
class LayerReader:
    """Reads what positions have become on the way through the layers."""

    layer: int
    """How many layers are below it."""
    read: Callable[[Tensor], object]
    """Takes from `[positions, width]` what is wanted; it is overwritten afterwards."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer multiplies with."""

    input_norm: Tensor
    qkv: Projection
    output: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


class Decoder:
    """Runs a language model over the slots of a cache. Not thread-safe.

    Args:
        model: whose weights are used. Those that are read together are laid together, and the
            model goes on with views of them: nothing is held twice.
        sliding_window: how many positions back a query sees; None for all.
        num_slots: of the cache.
        max_positions: of each slot.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        sliding_window: int | None,
        num_slots: int,
        max_positions: int,
    ) -> None:
        config = model.config
        self.cache = SlotCache(
            CacheShape(
                num_layers=config.num_hidden_layers,
                num_heads=config.num_attention_heads,
                num_kv_heads=config.num_key_value_heads,
                head_size=config.head_dim,
                max_positions=max_positions,
                sliding_window=sliding_window,
            ),
            num_slots,
            model.dtype,
            model.device,
        )
        self._epsilon: float = config.rms_norm_eps
        self._dtype: torch.dtype = model.dtype
        self._embedding = model.model.embed_tokens
        self._norm = widened(model.model.norm.weight.detach())
        self._head = projection(model.lm_head)
        self.vocabulary_size: int = config.vocab_size
        """Tokens that there are."""
        self._layers = [_layer(layer) for layer in model.model.layers]
        self._cos, self._sin = _rotations(model, max_positions)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids `[positions]` to `[positions, width]`."""
        embeddings: Tensor = self._embedding(ids)
        return embeddings

    def logits(self, hidden: Tensor) -> Tensor:
        """`[rows, width]` to `[rows, tokens]`."""
        return self._head(hidden)

    def head_rows(self, tokens: Sequence[int]) -> Tensor:
        """The head's weights for some tokens, `[tokens, width]`; quantised, for a decision's."""
        return self._head.rows(tokens)

    def forward(
        self,
        embeddings: Tensor,
        attention: Attention,
        positions: Tensor,
        last: Tensor,
        reader: LayerReader | None = None,
    ) -> Tensor:
        """Compute rows, and store their keys and values.

        Args:
            embeddings: `[positions, width]` of all rows, one behind the other; overwritten.
            attention: knows where they go. Rows of one slot come in the order of their positions.
            positions: `[positions]` int64, where each goes in its slot.
            last: `[wanted]` int64, for each of the first rows where its last position is among
                `embeddings`. Of the others nothing but keys and values is wanted.
            reader: reads all positions between two layers, or above the last.

        Returns:
            the last hidden states `[wanted, width]`.
        """
        shape = self.cache.shape
        num_rotated, num_kept = shape.num_heads + shape.num_kv_heads, 2 * shape.num_kv_heads
        cos, sin = self._cos[positions], self._sin[positions]
        hidden, num_positions = widened(embeddings), len(embeddings)
        num_layers = len(self._layers)
        read_layer = None if reader is None else reader.layer
        for index, layer in enumerate(self._layers):
            normed = self._rms_norm(hidden, layer.input_norm)
            qkv = layer.qkv(normed).view(num_positions, -1, shape.head_size)
            _rotate(qkv.narrow(1, 0, num_rotated), cos, sin)
            queries, keys_values = qkv.split((shape.num_heads, num_kept), 1)
            attention.store(index, keys_values.view(num_positions, 2, -1, shape.head_size))
            if index + 1 < num_layers or read_layer == num_layers:
                mixed = attention.attend(index, queries)
            elif len(last):
                # Above the last layer's keys and values nothing else is read.
                hidden = hidden[last]
                mixed = attention.attend_last(index, queries[last])
            else:
                return hidden[last]
            layer.output.add_to(hidden, mixed)
            gate, up = layer.gate_up(self._rms_norm(hidden, layer.mlp_norm)).chunk(2, dim=1)
            layer.down.add_to(hidden, F.silu(widened(gate)).mul_(up))
            if reader is not None and index + 1 == read_layer:
                reader.read(hidden)
        if read_layer == num_layers:
            hidden = hidden[last]
        return self._rms_norm(hidden, self._norm)

    def _rms_norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        normed = F.rms_norm(hidden, weight.shape, weight, self._epsilon)
        return narrowed(normed, self._dtype)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        input_norm=widened(layer.input_layernorm.weight.detach()),
        qkv=joined_projection(attention, *QKV),
        output=projection(attention.o_proj),
        mlp_norm=widened(layer.post_attention_layernorm.weight.detach()),
        gate_up=joined_projection(mlp, *GATE_UP),
        down=projection(mlp.down_proj),
    )


def _rotations(model: Qwen2ForCausalLM, max_positions: int) -> tuple[Tensor, Tensor]:
    """Cosines, and sines that are negative for the first half: `[positions, 1, head_size]` each."""
    positions = torch.arange(max_positions, device=model.device)
    like = torch.empty(0, dtype=model.dtype, device=model.device)
    cos, sin = model.model.rotary_emb(like, positions[None])
    half = sin.shape[-1] // 2
    sin[..., :half].neg_()
    return cos[0, :, None], sin[0, :, None]


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary position embedding of `[positions, heads, head_size]`, in place."""
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    heads.mul_(cos).addcmul_(swapped, sin)
