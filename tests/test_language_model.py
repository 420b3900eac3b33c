"""The renamed weights compute what the reference computed, and go back unchanged."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from backend.errors import CheckpointError
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.language_model import (
    LanguageModelConfig,
    empty_language_model,
    litgpt_state_dict,
)
from backend.protocol import listening_tokens, online_prefix

SMALL = LanguageModelConfig(
    block_size=256,
    n_layer=2,
    n_embd=16,
    n_head=4,
    n_query_groups=2,
    head_size=8,
    intermediate_size=32,
    padded_vocab_size=64,
    norm_eps=1e-6,
    rope_base=1e6,
    sliding_window_size=100,
)


@pytest.fixture(scope="module")
def golden_checkpoint(golden_checkpoint_dir: Path) -> Checkpoint:
    """One that no engine has equipped with its own attention."""
    return load_checkpoint(str(golden_checkpoint_dir), device="cpu", dtype="float32")


def test_prefix_ids_are_the_reference_s(
    golden_checkpoint: Checkpoint, golden_clip: Mapping[str, np.ndarray]
) -> None:
    prompt = golden_checkpoint.tokenizer.encode(
        golden_checkpoint.system_prompt, add_special_tokens=False
    ).ids
    prefix = online_prefix(golden_checkpoint.control_tokens, prompt)
    assert prefix == golden_clip["prefix_ids"].tolist()
    assert len(prefix) == 87


@torch.no_grad()
def test_logits_are_the_reference_s(
    golden_checkpoint: Checkpoint, golden_clip: Mapping[str, np.ndarray]
) -> None:
    """One uncached forward over the conversation that the reference held on offline features."""
    model, control = golden_checkpoint.language_model, golden_checkpoint.control_tokens
    features = torch.from_numpy(
        np.concatenate([golden_clip["feat_offline"], golden_clip["feat_silence_1s"]])
    )
    prefix = golden_clip["prefix_ids"].tolist()
    tokens, embeddings, sampled_at = [prefix[0]], [], []
    embed = model.get_input_embeddings()
    sequence = torch.empty(0, model.config.hidden_size)
    num_chunks = 0
    previous = None
    for token, is_decision in zip(
        golden_clip["fp32_tokens"], golden_clip["fp32_is_chunk"], strict=True
    ):
        if is_decision:
            tokens = listening_tokens(control, 0)
            tokens = prefix + tokens[1:] if previous is None else [previous, *tokens[1:]]
            embeddings = embed(torch.tensor(tokens))
            embeddings[-11:-1] = features[num_chunks]
            num_chunks += 1
        else:
            embeddings = embed(torch.tensor([previous]))
        sequence = torch.cat([sequence, embeddings])
        sampled_at.append(len(sequence) - 1)
        previous = int(token)
    assert sampled_at == golden_clip["fp32_pos"].tolist()
    logits = model(inputs_embeds=sequence[None], use_cache=False).logits[0, sampled_at].numpy()
    expected_ids, expected = golden_clip["fp32_top5_ids"], golden_clip["fp32_top5_vals"]
    np.testing.assert_allclose(np.take_along_axis(logits, expected_ids, 1), expected, atol=1e-3)
    in_text = ~golden_clip["fp32_is_chunk"]
    np.testing.assert_array_equal(logits.argmax(1)[in_text], golden_clip["fp32_tokens"][in_text])


def test_weights_go_back_to_litgpt_unchanged(
    golden_checkpoint: Checkpoint, golden_checkpoint_dir: Path
) -> None:
    exported = litgpt_state_dict(golden_checkpoint.language_model)
    stored: dict[str, torch.Tensor] = {}
    for shard in golden_checkpoint_dir.glob("*.safetensors"):
        stored |= load_file(shard)
    assert exported.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(exported[name], tensor.float()), name


def test_config_round_trip() -> None:
    assert LanguageModelConfig.from_litgpt(SMALL.to_litgpt()) == SMALL


def test_litgpt_defaults_fill_what_a_file_leaves_out() -> None:
    fields = SMALL.to_litgpt()
    for name in ("n_query_groups", "head_size", "norm_eps", "rope_base", "sliding_window_size"):
        del fields[name]
    config = LanguageModelConfig.from_litgpt(fields)
    assert (config.n_query_groups, config.head_size) == (4, 4)
    assert (config.norm_eps, config.rope_base) == (1e-5, 10_000)
    assert config.sliding_window_size is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parallel_residual": True}, "parallel_residual is True"),
        ({"rotary_percentage": 0.25}, "rotary_percentage is 0.25"),
        ({"norm_class_name": "LayerNorm"}, "norm_class_name is 'LayerNorm'"),
        ({"mlp_class_name": "GemmaMLP"}, "mlp_class_name is 'GemmaMLP'"),
        ({"norm_qk": True}, "norm_qk is True"),
        ({"n_layer": 0}, "n_layer must be a whole number above 0"),
        ({"n_layer": "two"}, "n_layer must be a whole number above 0"),
        ({"n_embd": None}, "n_embd is missing"),
        ({"norm_eps": "small"}, "norm_eps must be a number above 0"),
        ({"n_query_groups": 3}, "n_head 4 is not a multiple of n_query_groups 3"),
        ({"head_size": 7}, "head_size must be even"),
        ({"sliding_window_indices": [1, 0]}, "sliding_window_indices mixes"),
    ],
)
def test_unsupported_config_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        LanguageModelConfig.from_litgpt(SMALL.to_litgpt() | change)


def test_rope_stays_in_fp32() -> None:
    model = empty_language_model(SMALL, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, 1e6 ** (-torch.arange(0, 1, 0.25)))
