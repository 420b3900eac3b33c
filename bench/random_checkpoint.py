"""Checkpoints of random weights, of any size: what a step costs does not depend on them."""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)

from backend.config import SamplingConfig
from backend.model.audio_tower import empty_audio_tower
from backend.model.checkpoint import Checkpoint
from backend.model.language_model import LanguageModelConfig, empty_language_model
from backend.protocol import ControlTokens

SYSTEM_PROMPT = " ".join(["word"] * 82)
"""Makes a prefix of 87 tokens, as in the reference's measurements."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Shape of a random checkpoint."""

    layers: int
    width: int
    heads: int
    groups: int
    feed_forward: int
    tower_layers: int
    tower_width: int
    tower_heads: int

    @property
    def language_model(self) -> LanguageModelConfig:
        """The language model's shape, with the released vocabulary and context."""
        return LanguageModelConfig(
            block_size=4096,
            n_layer=self.layers,
            n_embd=self.width,
            n_head=self.heads,
            n_query_groups=self.groups,
            head_size=self.width // self.heads,
            intermediate_size=self.feed_forward,
            padded_vocab_size=151_936,
            norm_eps=1e-6,
            rope_base=1e6,
        )

    @property
    def audio_tower(self) -> Qwen2_5OmniAudioEncoderConfig:
        """The tower's shape."""
        return Qwen2_5OmniAudioEncoderConfig(
            encoder_layers=self.tower_layers,
            d_model=self.tower_width,
            encoder_attention_heads=self.tower_heads,
            encoder_ffn_dim=4 * self.tower_width,
            output_dim=self.width,
        )


SMALL = ModelSize(4, 64, 4, 2, 128, 2, 64, 4)
LARGER = ModelSize(8, 512, 8, 2, 2048, 6, 384, 6)
RELEASED = ModelSize(36, 2048, 16, 2, 11_008, 32, 1280, 20)


def random_checkpoint(size: ModelSize, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """A checkpoint of random weights that stays silent unless a reply is asked for."""
    torch.manual_seed(0)
    config = size.language_model
    language_model = empty_language_model(config, device=device, dtype=dtype)
    tower = empty_audio_tower(size.audio_tower, device=device, dtype=dtype)
    for module in (language_model, tower):
        module.requires_grad_(False)
        for name, parameter in module.named_parameters():
            if "norm" in name or "ln_post" in name:
                nn.init.constant_(parameter, float(name.endswith("weight")))
            else:
                nn.init.normal_(parameter, std=0.02)
    control = ControlTokens()
    # One dimension stands out in every token and only speaks for silence.
    language_model.model.embed_tokens.weight[:, 0] = 1.0
    language_model.lm_head.weight[control.keep_silence, 0] = 1.0
    language_model.lm_head.weight[control.text_begin, 0] = -1.0
    return Checkpoint(
        name="random",
        language_model=language_model,
        audio_tower=tower,
        tokenizer=_word_tokenizer(),
        control_tokens=control,
        sampling=SamplingConfig(),
        system_prompt=SYSTEM_PROMPT,
        max_positions=config.block_size,
        sliding_window=None,
    )


def _word_tokenizer() -> Tokenizer:
    # Every word is the unknown one.
    tokenizer = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer
