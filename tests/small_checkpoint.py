"""Write small random checkpoints in the release layout."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)

from backend.model.audio_tower import AudioTower, empty_audio_tower
from backend.model.checkpoint import Checkpoint
from backend.model.language_model import (
    LanguageModelConfig,
    empty_language_model,
    litgpt_state_dict,
)
from backend.model.word_head import WordHead
from backend.protocol import ControlTokens
from backend.training.model import ModelShape

VOCAB_SIZE = 64
CONTROL_TOKENS = {field.name: 40 + index for index, field in enumerate(fields(ControlTokens))}
CPU = torch.device("cpu")
TINY_SHAPE = ModelShape(
    tower_width=32,
    tower_layers=1,
    tower_heads=2,
    decoder_width=32,
    decoder_layers=3,
    decoder_heads=2,
    decoder_ffn=48,
    word_layer=2,
)
"""A model to train in a moment."""


def small_language_model_config(
    *, n_layer: int = 2, n_embd: int = 16, padded_vocab_size: int = VOCAB_SIZE
) -> LanguageModelConfig:
    """Two query heads to each key head, whatever the width."""
    return LanguageModelConfig(
        block_size=256,
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=4,
        n_query_groups=2,
        head_size=n_embd // 4,
        intermediate_size=2 * n_embd,
        padded_vocab_size=padded_vocab_size,
        norm_eps=1e-6,
        rope_base=1e6,
    )


def write_small_checkpoint(folder: Path, config: LanguageModelConfig | None = None) -> Path:
    """A random checkpoint of two bf16 shards and an fp32 tower, all files in place."""
    config = config or small_language_model_config()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_config.yaml").write_text(yaml.safe_dump(config.to_litgpt()))
    _write_shards(folder, config)
    _write_tower(folder, config.n_embd)
    words = {f"word{index}": index for index in range(40)}
    Tokenizer(WordLevel(words, unk_token="word0")).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(
        json.dumps(
            {
                "audio_interaction": {
                    "control_tokens": CONTROL_TOKENS,
                    "system_prompt": "word1",
                }
            }
        )
    )
    return folder


def _write_shards(folder: Path, config: LanguageModelConfig) -> None:
    model = empty_language_model(config, device=CPU, dtype=torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tensors = litgpt_state_dict(model)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file_name = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file_name)
        weight_map |= dict.fromkeys(part, file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _write_tower(folder: Path, output_dim: int) -> None:
    shape = {
        "num_mel_bins": 128,
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "output_dim": output_dim,
    }
    (folder / "qwen25OmniConfig").mkdir(exist_ok=True)
    (folder / "qwen25OmniConfig" / "config.json").write_text(
        json.dumps({"thinker_config": {"audio_config": shape}})
    )
    tower: AudioTower = empty_audio_tower(
        Qwen2_5OmniAudioEncoderConfig(**shape), device=CPU, dtype=torch.float32
    )
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    torch.save(tower.encoder.state_dict(), folder / "audiointeraction_ChunkwisedEncoder.pth")


def with_words(checkpoint: Checkpoint, pieces: Sequence[str] = ("▁a", "▁b", "c")) -> Checkpoint:
    """The same with a random word head on its last layer but one."""
    width, num_layers = (
        checkpoint.language_model.config.hidden_size,
        len(checkpoint.language_model.model.layers),
    )
    weight = torch.randn(len(pieces) + 1, width, generator=torch.Generator().manual_seed(0))
    head = WordHead(max(1, num_layers - 1), weight, torch.zeros(len(pieces) + 1), pieces)
    return replace(checkpoint, word_head=head)
