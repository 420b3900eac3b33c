"""The network in training: tower and decoder as shipped, and heads that only training uses."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)

from backend.config import MEL_FRAMES_PER_CHUNK, NUM_MEL_BINS
from backend.model.audio_tower import AudioTower
from backend.model.language_model import LanguageModelConfig
from backend.training.utterances import SOUND_CLASSES


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of the embedded model."""

    tower_width: int = 192
    tower_layers: int = 3
    tower_heads: int = 4
    decoder_width: int = 192
    decoder_layers: int = 6
    decoder_heads: int = 3
    decoder_ffn: int = 576
    window: int = 512
    max_positions: int = 2048
    rope_base: float = 10_000.0
    phone_layer: int = 1
    """Decoder layers below the second phone head."""
    word_layer: int = 4
    """Decoder layers below the word head."""

    def tower_config(self) -> Qwen2_5OmniAudioEncoderConfig:
        """The tower's configuration in the library's words."""
        return Qwen2_5OmniAudioEncoderConfig(
            num_mel_bins=NUM_MEL_BINS,
            encoder_layers=self.tower_layers,
            encoder_attention_heads=self.tower_heads,
            encoder_ffn_dim=4 * self.tower_width,
            d_model=self.tower_width,
            output_dim=self.decoder_width,
            n_window=MEL_FRAMES_PER_CHUNK // 2,
            max_source_positions=MEL_FRAMES_PER_CHUNK,
        )

    def decoder_config(self, vocab_size: int) -> LanguageModelConfig:
        """The decoder's configuration in LitGPT's words."""
        return LanguageModelConfig(
            block_size=self.max_positions,
            n_layer=self.decoder_layers,
            n_embd=self.decoder_width,
            n_head=self.decoder_heads,
            n_query_groups=self.decoder_heads,
            head_size=self.decoder_width // self.decoder_heads,
            intermediate_size=self.decoder_ffn,
            padded_vocab_size=vocab_size,
            norm_eps=1e-6,
            rope_base=self.rope_base,
            sliding_window_size=self.window,
        )


@dataclass(frozen=True, slots=True)
class Outputs:
    """B streams, L positions, N features."""

    hidden: Tensor
    """[B, L, width], before the language model's head"""
    words: Tensor
    """[B, N, words]"""
    tower_phones: Tensor
    """[B, N, phones]"""
    decoder_phones: Tensor
    """[B, N, phones]"""


def _normalised(hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, hidden.shape[-1:])


class TrainingModel(nn.Module):
    """Tower, decoder and three auxiliary heads."""

    def __init__(self, shape: ModelShape, vocab_size: int, num_words: int) -> None:
        super().__init__()
        self.shape = shape
        self.tower = AudioTower(shape.tower_config())
        decoder = shape.decoder_config(vocab_size)
        self.decoder = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=vocab_size,
                hidden_size=decoder.n_embd,
                intermediate_size=decoder.intermediate_size,
                num_hidden_layers=decoder.n_layer,
                num_attention_heads=decoder.n_head,
                num_key_value_heads=decoder.n_query_groups,
                rms_norm_eps=decoder.norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": decoder.rope_base},
                tie_word_embeddings=True,
                use_sliding_window=True,
                sliding_window=shape.window,
                max_window_layers=0,
                layer_types=["sliding_attention"] * decoder.n_layer,
                attn_implementation="sdpa",
            )
        )
        self.tower_phone_head = nn.Linear(shape.decoder_width, len(SOUND_CLASSES))
        self.decoder_phone_head = nn.Linear(shape.decoder_width, len(SOUND_CLASSES))
        self.word_head = nn.Linear(shape.decoder_width, num_words)

    def encode(self, log_mel: Tensor) -> Tensor:
        """`[B, C, 128, 40]` to `[B, 10 C, width]`."""
        features: Tensor = self.tower(log_mel.flatten(0, 1))
        return features.unflatten(0, log_mel.shape[:2]).flatten(1, 2)

    def phones(self, log_mel: Tensor) -> Tensor:
        """Phone logits of the tower alone: `[B, C, 128, 40]` to `[B, 10 C, phones]`."""
        logits: Tensor = self.tower_phone_head(_normalised(self.encode(log_mel)))
        return logits

    def hear(self, log_mel: Tensor, ids: Tensor, audio_positions: Tensor) -> Tensor:
        """What the word head sees of whole streams that no reply interrupts.

        Args:
            log_mel: `[B, C, 128, 40]`.
            ids: `[L]`, the same for every stream; `L` does not exceed the decoder's window.
            audio_positions: `[10 C]`, where in `ids` the features stand.

        Returns:
            `[B, 10 C, width]`, of an RMS of 1.
        """
        assert len(ids) <= self.shape.window, f"{len(ids)} positions exceed {self.shape.window}"
        decoder = self.decoder.model
        embedded = decoder.embed_tokens(ids).expand(log_mel.shape[0], -1, -1)
        features = self.encode(log_mel)
        hidden = embedded.index_copy(1, audio_positions, features)
        positions = torch.arange(len(ids))[None]
        rotation = decoder.rotary_emb(hidden, positions)
        for layer in decoder.layers[: self.shape.word_layer]:
            hidden = layer(hidden, position_ids=positions, position_embeddings=rotation)
        return _normalised(hidden[:, audio_positions])

    def forward(self, log_mel: Tensor, ids: Tensor, audio_positions: Tensor) -> Outputs:
        """One pass over whole streams; see `StreamBatch` for the shapes."""
        features = self.encode(log_mel)
        at_audio = audio_positions[..., None].expand(-1, -1, features.shape[-1])
        embedded = self.decoder.model.embed_tokens(ids).scatter(1, at_audio, features)
        output = self.decoder.model(
            inputs_embeds=embedded, use_cache=False, output_hidden_states=True
        )

        def heard(layer: int) -> Tensor:
            return _normalised(output.hidden_states[layer].gather(1, at_audio))

        return Outputs(
            hidden=output.last_hidden_state,
            words=self.word_head(heard(self.shape.word_layer)),
            tower_phones=self.tower_phone_head(_normalised(features)),
            decoder_phones=self.decoder_phone_head(heard(self.shape.phone_layer)),
        )


def _fan_in(weight: Tensor, gain: float = 1.0) -> None:
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))


@torch.no_grad()
def initialise(model: TrainingModel, log_mel: Tensor) -> None:
    """Fan-in initialisation everywhere; the first convolution also whitens each mel bin.

    The library's normal(0, 0.02) leaves a tower this narrow nearly deaf.

    Args:
        model: to be initialised in place.
        log_mel: `[B, C, 128, 40]`, a sample of the training data.
    """
    encoder = model.tower.encoder
    mean = log_mel.mean(dim=(0, 1, 3))
    deviation = log_mel.std(dim=(0, 1, 3)).clamp_min(0.05)
    _fan_in(encoder.conv1.weight, 1.4)
    encoder.conv1.weight /= deviation[None, :, None]
    encoder.conv1.bias.copy_(-(encoder.conv1.weight * mean[None, :, None]).sum(dim=(1, 2)))
    _fan_in(encoder.conv2.weight, 2.0)
    encoder.conv2.bias.zero_()
    for layer in encoder.layers:
        attention = layer.self_attn
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, layer.fc1):
            _fan_in(linear.weight)
        for linear in (attention.out_proj, layer.fc2):
            _fan_in(linear.weight, 0.5)
    _fan_in(encoder.proj.weight)
    encoder.proj.bias.zero_()
    for name, parameter in model.decoder.named_parameters():
        if parameter.ndim == 2:
            into_residual = "o_proj" in name or "down_proj" in name
            _fan_in(parameter, 0.5 if into_residual else 1.0)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.fill_(1.0)
