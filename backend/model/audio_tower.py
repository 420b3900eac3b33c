"""The chunk-wise audio tower: 40 mel frames in, ten vectors of the language model's width out."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoder,
)

from backend.config import MEL_FRAMES_PER_CHUNK, NUM_MEL_BINS


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


@torch.no_grad()
def encode_clip(tower: AudioTower, log_mel: Tensor) -> Tensor:
    """Encode a whole clip's log-mel `[128, 40 n]` to `[n, 10, width]`, each chunk on its own."""
    features: Tensor = tower(log_mel.unflatten(1, (-1, MEL_FRAMES_PER_CHUNK)).transpose(0, 1))
    return features
