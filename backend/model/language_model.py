"""The language model: LitGPT's configuration and tensor names as a `Qwen2ForCausalLM`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from backend.errors import CheckpointError
from backend.model.weights import GATE_UP, QKV, hollow, joined_layout

_FIXED_FIELDS: dict[str, tuple[object, object]] = {
    # field: (the only value this architecture has, LitGPT's default where the file is silent)
    "norm_class_name": ("RMSNorm", "LayerNorm"),
    "mlp_class_name": ("LLaMAMLP", "GptNeoxMLP"),
    "parallel_residual": (False, True),
    "shared_attention_norm": (False, False),
    "post_attention_norm": (False, False),
    "post_mlp_norm": (False, False),
    "norm_qk": (False, False),
    "attn_bias": (True, False),
    "bias": (False, True),
    "lm_head_bias": (False, False),
    "rotary_percentage": (1.0, 0.25),
    "rope_condense_ratio": (1, 1),
    "rope_adjustments": (None, None),
    "rope_local_base_freq": (None, None),
    "scale_embeddings": (False, False),
    "attention_scores_scalar": (None, None),
    "attention_logit_softcapping": (None, None),
    "final_logit_softcapping": (None, None),
    "latent_attention": (None, None),
    "n_expert": (0, 0),
}


@dataclass(frozen=True, slots=True)
class LanguageModelConfig:
    """Shape of the language model, in the words of LitGPT's `model_config.yaml`."""

    block_size: int
    n_layer: int
    n_embd: int
    n_head: int
    n_query_groups: int
    head_size: int
    intermediate_size: int
    padded_vocab_size: int
    norm_eps: float
    rope_base: float
    sliding_window_size: int | None = None

    @classmethod
    def from_litgpt(cls, fields: Mapping[str, Any]) -> "LanguageModelConfig":
        """Read the fields of a `model_config.yaml`; LitGPT's defaults where it is silent.

        Raises:
            CheckpointError: a field is missing, of another type, or asks for what is not supported.
        """
        for name, (supported, default) in _FIXED_FIELDS.items():
            if (value := fields.get(name, default)) != supported:
                raise CheckpointError(f"{name} is {value!r}; only {supported!r} is supported")
        n_embd, n_head = _count(fields, "n_embd"), _count(fields, "n_head")
        config = cls(
            block_size=_count(fields, "block_size"),
            n_layer=_count(fields, "n_layer"),
            n_embd=n_embd,
            n_head=n_head,
            n_query_groups=_count(fields, "n_query_groups", n_head),
            head_size=_count(fields, "head_size", n_embd // n_head),
            intermediate_size=_count(fields, "intermediate_size"),
            padded_vocab_size=_count(fields, "padded_vocab_size"),
            norm_eps=_positive(fields, "norm_eps", 1e-5),
            rope_base=_positive(fields, "rope_base", 10_000),
            sliding_window_size=_sliding_window(fields),
        )
        if n_head % config.n_query_groups:
            raise CheckpointError(
                f"n_head {n_head} is not a multiple of n_query_groups {config.n_query_groups}"
            )
        if config.head_size % 2:
            raise CheckpointError(f"head_size must be even, not {config.head_size}")
        return config

    def to_litgpt(self) -> dict[str, Any]:
        """The fields of a `model_config.yaml` that `from_litgpt` reads back."""
        fields: dict[str, Any] = {name: value for name, (value, _) in _FIXED_FIELDS.items()}
        fields |= {
            "block_size": self.block_size,
            "n_layer": self.n_layer,
            "n_embd": self.n_embd,
            "n_head": self.n_head,
            "n_query_groups": self.n_query_groups,
            "head_size": self.head_size,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.padded_vocab_size,
            "padded_vocab_size": self.padded_vocab_size,
            "norm_eps": self.norm_eps,
            "rope_base": self.rope_base,
        }
        if self.sliding_window_size is not None:
            fields["sliding_window_size"] = self.sliding_window_size
            fields["sliding_window_indices"] = [1] * self.n_layer
        return fields

    def to_transformers(self) -> Qwen2Config:
        """The same shape as a `Qwen2Config`.

        Every layer attends fully: a sliding window is a matter of the engine's mask.
        """
        return Qwen2Config(
            vocab_size=self.padded_vocab_size,
            hidden_size=self.n_embd,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.n_layer,
            num_attention_heads=self.n_head,
            num_key_value_heads=self.n_query_groups,
            head_dim=self.head_size,
            max_position_embeddings=self.block_size,
            rms_norm_eps=self.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_base},
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )


def empty_language_model(
    config: LanguageModelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    without: Iterable[str] = (),
) -> Qwen2ForCausalLM:
    """A model on `device` whose weights are allocated and not yet filled, in eval mode.

    Modules that are named in `without` are left out.
    """
    shape = config.to_transformers()
    with torch.device("meta"):
        model = Qwen2ForCausalLM(shape)
    hollow(model, without)
    model = model.to(dtype).to_empty(device=device)
    # In half precision the angles of late positions collapse into each other: RoPE stays in fp32,
    # and its buffers, which are in no checkpoint, are computed anew where `to_empty` left none.
    model.model.rotary_emb = Qwen2RotaryEmbedding(shape).to(device)
    return model.eval()


def quantised_layout(num_layers: int) -> dict[str, tuple[str, ...]]:
    """Modules of a quantised `Qwen2ForCausalLM`, each with those for which it stands."""
    layout: dict[str, tuple[str, ...]] = {
        name: (name,) for name in ("lm_head", "model.embed_tokens")
    }
    for index in range(num_layers):
        layer = f"model.layers.{index}"
        layout |= joined_layout(f"{layer}.self_attn", *QKV)
        layout |= joined_layout(f"{layer}.mlp", *GATE_UP)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            layout[f"{layer}.{name}"] = (f"{layer}.{name}",)
    return layout


def litgpt_layout(num_layers: int) -> dict[str, tuple[str, ...]]:
    """LitGPT's tensor names, each with the parameters of `Qwen2ForCausalLM` that fill its rows.

    `qkv` holds the rows of all query heads, then of all key heads, then of all value heads.
    """
    layout: dict[str, tuple[str, ...]] = {
        "lm_head.weight": ("lm_head.weight",),
        "transformer.wte.weight": ("model.embed_tokens.weight",),
        "transformer.ln_f.weight": ("model.norm.weight",),
    }
    for index in range(num_layers):
        here, there = f"transformer.h.{index}", f"model.layers.{index}"
        for kind in ("weight", "bias"):
            layout[f"{here}.attn.qkv.{kind}"] = tuple(
                f"{there}.self_attn.{projection}.{kind}"
                for projection in ("q_proj", "k_proj", "v_proj")
            )
        layout |= {
            f"{here}.norm_1.weight": (f"{there}.input_layernorm.weight",),
            f"{here}.attn.proj.weight": (f"{there}.self_attn.o_proj.weight",),
            f"{here}.norm_2.weight": (f"{there}.post_attention_layernorm.weight",),
            f"{here}.mlp.fc_1.weight": (f"{there}.mlp.gate_proj.weight",),
            f"{here}.mlp.fc_2.weight": (f"{there}.mlp.up_proj.weight",),
            f"{here}.mlp.proj.weight": (f"{there}.mlp.down_proj.weight",),
        }
    return layout


def litgpt_state_dict(model: Qwen2ForCausalLM) -> dict[str, Tensor]:
    """The weights under LitGPT's names: the inverse of loading."""
    parameters = dict(model.named_parameters())
    return {
        name: torch.cat([parameters[part].detach() for part in parts])
        for name, parts in litgpt_layout(model.config.num_hidden_layers).items()
    }


def _count(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"{name} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{name} must be a whole number above 0, not {value!r}")
    return value


def _positive(fields: Mapping[str, Any], name: str, default: float) -> float:
    value = fields.get(name, default)
    try:
        # YAML 1.1 reads "1e-6", which has no point, as a string.
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise CheckpointError(f"{name} must be a number above 0, not {value!r}")
    return number


def _sliding_window(fields: Mapping[str, Any]) -> int | None:
    if fields.get("sliding_window_size") is None:
        return None
    indices = fields.get("sliding_window_indices")
    if indices is not None and indices != [1] * _count(fields, "n_layer"):
        raise CheckpointError(
            "sliding_window_indices mixes layers with and without a window, "
            "only a window in every layer is supported"
        )
    return _count(fields, "sliding_window_size")
