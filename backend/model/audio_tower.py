"""The chunk-wise audio tower: 40 mel frames in, ten vectors of the language model's width out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoder,
    SinusoidsPositionEmbedding,
)

from backend.config import FEATURES_PER_CHUNK, MEL_FRAMES_PER_CHUNK, NUM_MEL_BINS
from backend.model.residual import narrowed, widened
from backend.model.weights import (
    QKV,
    Projection,
    hollow,
    joined_layout,
    joined_projection,
    projection,
)

UNUSED_TOWER_PARAMETER = "audio_bos_eos_token.weight"
"""Part of the library's module and never read here, so it may be absent from a file."""
_POOLED_FRAMES = MEL_FRAMES_PER_CHUNK // 2
"""Frames that the second convolution leaves of a chunk."""


class AudioTower(nn.Module):
    """The weights of `Qwen2_5OmniAudioEncoder`, run densely over chunks.

    The library's forward walks segments in a Python loop. Every chunk here is a segment of its
    own and all have the same length, so a batch of chunks is one dense tensor: the same numbers,
    any batch size, no host synchronisation.
    """

    def __init__(self, config: Qwen2_5OmniAudioEncoderConfig) -> None:
        super().__init__()
        self.encoder = Qwen2_5OmniAudioEncoder(config)
        self.num_heads: int = config.encoder_attention_heads

    def forward(self, log_mel: Tensor) -> Tensor:
        """Encode chunks.

        Args:
            log_mel: `[chunks, 128, 40]`.

        Returns:
            `[chunks, 10, width]` in the tower's dtype.
        """
        chunks, bins, frames = log_mel.shape
        assert (bins, frames) == (NUM_MEL_BINS, MEL_FRAMES_PER_CHUNK), (
            f"expected [chunks, {NUM_MEL_BINS}, {MEL_FRAMES_PER_CHUNK}], got {tuple(log_mel.shape)}"
        )
        encoder = self.encoder
        hidden = F.gelu(encoder.conv1(log_mel.to(encoder.conv1.weight.dtype)))
        hidden = F.gelu(encoder.conv2(hidden)).transpose(1, 2)
        table = encoder.positional_embedding.positional_embedding
        hidden = hidden + table[: hidden.shape[1]].to(hidden.dtype)
        for layer in encoder.layers:
            hidden = hidden + self._attend(layer.self_attn, layer.self_attn_layer_norm(hidden))
            hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
        pooled = hidden.unflatten(1, (-1, 2)).mean(dim=2)
        features: Tensor = encoder.proj(encoder.ln_post(pooled))
        return features

    def _attend(self, attention: Any, hidden: Tensor) -> Tensor:
        query, key, value = (
            projection(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return output


def empty_audio_tower(
    config: Qwen2_5OmniAudioEncoderConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    without: Iterable[str] = (),
) -> AudioTower:
    """A tower on `device` whose weights are allocated and not yet filled, in eval mode.

    Modules of its encoder that are named in `without` are left out.
    """
    with torch.device("meta"):
        tower = AudioTower(config)
    hollow(tower.encoder, without)
    tower = tower.to(dtype).to_empty(device=device)
    # The position table is in no checkpoint; `to_empty` has left none.
    tower.encoder.positional_embedding = SinusoidsPositionEmbedding(
        config.max_source_positions, config.d_model
    ).to(device)
    with torch.no_grad():
        tower.encoder.get_parameter(UNUSED_TOWER_PARAMETER).zero_()
    return tower.eval()


def quantised_tower_layout(num_layers: int) -> dict[str, tuple[str, ...]]:
    """As `language_model.quantised_layout`, for `AudioTower.encoder`."""
    layout: dict[str, tuple[str, ...]] = {"proj": ("proj",)}
    for index in range(num_layers):
        layer = f"layers.{index}"
        layout |= joined_layout(f"{layer}.self_attn", *QKV)
        for name in ("self_attn.out_proj", "fc1", "fc2"):
            layout[f"{layer}.{name}"] = (f"{layer}.{name}",)
    return layout


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer multiplies with."""

    attention_norm: tuple[Tensor, Tensor]
    qkv: Projection
    output: Projection
    mlp_norm: tuple[Tensor, Tensor]
    up: Projection
    down: Projection


class ChunkEncoder:
    """The tower's forward pass as a step runs it: the same weights, without its modules."""

    def __init__(self, tower: AudioTower) -> None:
        encoder = tower.encoder
        self._num_heads = tower.num_heads
        self._first, self._second = _convolution(encoder.conv1), _convolution(encoder.conv2)
        table = encoder.positional_embedding.positional_embedding[:_POOLED_FRAMES]
        self._positions = table.to(encoder.conv1.weight.dtype)
        self._layers = [_layer(layer) for layer in encoder.layers]
        self._last_norm = _norm(encoder.ln_post)
        self._projection = projection(encoder.proj)

    def encode(self, log_mel: Tensor) -> Tensor:
        """`[chunks, 128, 40]` to `[chunks, 10, width]`, as `AudioTower` does."""
        num_chunks = log_mel.shape[0]
        frames = log_mel.transpose(1, 2).to(self._positions.dtype)
        hidden = F.gelu(_convolved(frames, self._first, stride=1))
        hidden = F.gelu(_convolved(hidden, self._second, stride=2))
        hidden = widened(hidden + self._positions).flatten(0, 1)
        num_frames, width = hidden.shape
        for layer in self._layers:
            qkv = layer.qkv(self._normed(hidden, layer.attention_norm))
            heads = qkv.view(num_chunks, _POOLED_FRAMES, 3, self._num_heads, -1)
            query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(query, key, value)
            layer.output.add_to(hidden, mixed.transpose(1, 2).reshape(num_frames, width))
            up = layer.up(self._normed(hidden, layer.mlp_norm))
            layer.down.add_to(hidden, F.gelu(up))
        pooled = self._normed(hidden.view(-1, 2, width).mean(dim=1), self._last_norm)
        return self._projection(pooled).view(num_chunks, FEATURES_PER_CHUNK, -1)

    def _normed(self, hidden: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        weight, bias = norm
        normed = F.layer_norm(hidden, weight.shape, weight, bias)
        return narrowed(normed, self._positions.dtype)


def _layer(layer: Any) -> _Layer:
    return _Layer(
        attention_norm=_norm(layer.self_attn_layer_norm),
        qkv=joined_projection(layer.self_attn, *QKV),
        output=projection(layer.self_attn.out_proj),
        mlp_norm=_norm(layer.final_layer_norm),
        up=projection(layer.fc1),
        down=projection(layer.fc2),
    )


def _convolution(convolution: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Weights `[frames * in, out]`, as `_convolved` takes them, and biases."""
    assert convolution.bias is not None, "the tower's convolutions have biases"
    return convolution.weight.detach().permute(2, 1, 0).flatten(0, 1), convolution.bias.detach()


def _convolved(frames: Tensor, convolution: tuple[Tensor, Tensor], stride: int) -> Tensor:
    """`[chunks, frames, in]` to `[chunks, frames / stride, out]`, as one product.

    For so few frames the library's convolutions take several times as long.
    """
    weight, bias = convolution
    chunks, num_frames, width = frames.shape
    padded = F.pad(frames, (0, 0, 1, 1))
    # Frames that are heard together lie behind one another in memory.
    windows = padded.as_strided(
        (chunks, num_frames // stride, len(weight)), (padded.stride(0), stride * width, 1)
    )
    return torch.addmm(bias, windows.flatten(0, 1), weight).view(chunks, -1, len(bias))


def _norm(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return widened(norm.weight.detach()), widened(norm.bias.detach())


@torch.no_grad()
def encode_clip(tower: AudioTower, log_mel: Tensor) -> Tensor:
    """Encode a whole clip's log-mel `[128, 40 n]` to `[n, 10, width]`, each chunk on its own."""
    chunks = log_mel.unflatten(1, (-1, MEL_FRAMES_PER_CHUNK)).transpose(0, 1)
    return ChunkEncoder(tower).encode(chunks)
