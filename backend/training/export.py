"""A trained model as a folder in the released layout."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from safetensors.torch import save
from torch import Tensor
from transformers import Qwen2ForCausalLM

from backend.config import NUM_MEL_BINS
from backend.model.language_model import litgpt_state_dict
from backend.model.layout import (
    AUDIO_TOWER_CONFIG,
    AUDIO_TOWERS,
    CONFIG,
    GENERATION_CONFIG,
    LANGUAGE_MODEL_CONFIG,
    SHARD_INDEX,
    SINGLE_SHARD,
    TOKENIZER,
)
from backend.model.word_head import write_word_head
from backend.training.domain import SYSTEM_PROMPT, StatedAbility, abilities
from backend.training.model import ModelShape, TrainingModel
from backend.training.tokens import Vocabulary
from backend.training.word_pieces import WordPieces

MODEL_NAME = "AudioInteraction-Embedded"
_UNUSED_TOWER_TENSOR = "audio_bos_eos_token.weight"


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _tower_config(shape: ModelShape) -> dict[str, object]:
    config = shape.tower_config()
    return {
        "model_type": "qwen2_5_omni_audio_encoder",
        "num_mel_bins": NUM_MEL_BINS,
        "encoder_layers": config.encoder_layers,
        "encoder_attention_heads": config.encoder_attention_heads,
        "encoder_ffn_dim": config.encoder_ffn_dim,
        "d_model": config.d_model,
        "activation_function": "gelu",
        "max_source_positions": config.max_source_positions,
        "n_window": config.n_window,
        "output_dim": config.output_dim,
    }


def _in_bfloat16(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to(torch.bfloat16).clone().contiguous()
        for name, tensor in tensors.items()
    }


def export(
    model: TrainingModel,
    vocabulary: Vocabulary,
    folder: Path,
    system_prompt: str = SYSTEM_PROMPT,
    answered: Sequence[StatedAbility] | None = None,
    pieces: WordPieces | None = None,
) -> None:
    """Write `model` without its training heads, in bfloat16.

    Args:
        model: the trained model.
        vocabulary: its tokenizer and control tokens.
        folder: the checkpoint's folder; files of the same names are replaced.
        system_prompt: what the model was trained with.
        answered: what it answers; None: what the embedded model does.
        pieces: what its word head writes; None: the head is closed in vocabulary, and stays behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = model.shape
    decoder = _in_bfloat16(litgpt_state_dict(_untied(model, vocabulary)))
    (folder / SINGLE_SHARD).write_bytes(save(decoder, metadata={"format": "pt"}))
    total_size = sum(tensor.nbytes for tensor in decoder.values())
    index = {
        "metadata": {"total_size": total_size},
        "weight_map": dict.fromkeys(decoder, SINGLE_SHARD),
    }
    _write_json(folder / SHARD_INDEX, index)
    config = {"name": MODEL_NAME, **shape.decoder_config(vocabulary.size).to_litgpt()}
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / LANGUAGE_MODEL_CONFIG).write_text(text, encoding="utf-8")
    vocabulary.tokenizer.save(str(folder / TOKENIZER))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "bos_token": None,
            "model_max_length": shape.max_positions,
        },
    )
    _write_json(folder / GENERATION_CONFIG, {"do_sample": False})
    _write_json(
        folder / CONFIG,
        {
            "architectures": ["AudioInteraction"],
            "model_type": "audio_interaction",
            "audio_interaction": {
                "control_tokens": asdict(vocabulary.control),
                "system_prompt": system_prompt,
                "abilities": abilities() if answered is None else list(answered),
            },
        },
    )
    _write_json(
        folder / AUDIO_TOWER_CONFIG,
        {
            "model_type": "qwen2_5_omni",
            "thinker_config": {
                "model_type": "qwen2_5_omni_thinker",
                "audio_config": _tower_config(shape),
            },
        },
    )
    tower = dict(model.tower.encoder.named_parameters())
    tower.pop(_UNUSED_TOWER_TENSOR, None)
    buffer = io.BytesIO()  # torch says of a full disk that some stream has failed
    torch.save(_in_bfloat16(dict(tower)), buffer)
    (folder / AUDIO_TOWERS[0]).write_bytes(buffer.getbuffer())
    if pieces is not None:
        head = _in_bfloat16({"weight": model.word_head.weight, "bias": model.word_head.bias})
        write_word_head(folder, shape.word_layer, head["weight"], head["bias"], pieces.written())


def _untied(model: TrainingModel, vocabulary: Vocabulary) -> Qwen2ForCausalLM:
    """The decoder with a head of its own, as the release stores it."""
    config = model.shape.decoder_config(vocabulary.size)
    untied = Qwen2ForCausalLM(config.to_transformers())
    untied.load_state_dict(model.decoder.state_dict())
    return untied
