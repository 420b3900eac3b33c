"""Weights of 8 and 4 bits: what they keep of the numbers, and that the model says the same."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from backend.config import BLOCK, GREEDY, Bits, EngineConfig, SessionSettings
from backend.conversation.voice_activity import network
from backend.engine.core import EngineCore
from backend.engine.cost import noise_chunks, run_steps
from backend.errors import SettingsError
from backend.events import Decision
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.quantised import (
    Matrix,
    Quantised,
    QuantisedEmbedding,
    QuantisedLinear,
    WidenedProduct,
)
from backend.model.runtime_product import RuntimeProduct
from backend.model.weights import num_weights
from backend.recordings.recorder import describe
from tests.small_checkpoint import CPU, small_language_model_config, write_small_checkpoint

ROUNDING = {Bits.EIGHT: 1 / 256, Bits.FOUR: 1 / 16}
"""Of a weight at most, in parts of its block's furthest from 0 and of twice that."""
QUANTISED = (Bits.EIGHT, Bits.FOUR)


def random_weights(outputs: int, inputs: int) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))


def quantised(weights: torch.Tensor, bits: Bits) -> Quantised:
    return Matrix(len(weights), weights.shape[1], weights.split(7)).quantised(bits, CPU)


@pytest.mark.parametrize("bits", QUANTISED)
@pytest.mark.parametrize("inputs", [BLOCK * 3, BLOCK + 10, 16])
def test_every_weight_is_as_near_as_its_block_allows(bits: Bits, inputs: int) -> None:
    weights = random_weights(50, inputs)
    weights[3] = 0.0
    weights[6] *= 1e-42
    weights[4, 5] = 1000.0
    found = quantised(weights, bits).widened(slice(0, 50), torch.float32)
    for block in range(0, inputs, BLOCK):
        there = weights[:, block : block + BLOCK]
        step = there.abs().amax(1, keepdim=True) * 2 * ROUNDING[bits]
        # The far end of the other side is one number short.
        most = step * 1.001 + 1e-30
        assert ((found[:, block : block + BLOCK] - there).abs() <= most).all()
    assert not found[3].any()
    assert found.isfinite().all()


@pytest.mark.parametrize("bits", QUANTISED)
@pytest.mark.parametrize("inputs", [BLOCK * 4, BLOCK + 10])
def test_both_products_are_those_of_the_widened_weights(bits: Bits, inputs: int) -> None:
    weights = quantised(random_weights(24, inputs), bits)
    rows = torch.randn(5, inputs, generator=torch.Generator().manual_seed(1))
    expected = rows @ weights.widened(slice(0, 24), torch.float32).T
    torch.testing.assert_close(WidenedProduct(weights)(rows), expected)
    # This one rounds its input to 8 bits as well.
    found = RuntimeProduct(weights)(rows)
    assert (found - expected).norm() < 0.01 * expected.norm()
    assert RuntimeProduct(weights)(rows.bfloat16()).dtype == torch.bfloat16


def test_a_product_of_one_row_is_that_of_many() -> None:
    product = RuntimeProduct(quantised(random_weights(24, 256), Bits.EIGHT))
    rows = torch.randn(9, 256, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.cat([product(row) for row in rows.split(1)]), product(rows))


def test_a_large_product_is_shared_between_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its threads are no other session's: the voice detector has its own beside it."""
    weights = quantised(random_weights(4100, 256), Bits.EIGHT)
    rows = torch.randn(3, 256)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = RuntimeProduct(weights)(rows)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    torch.testing.assert_close(RuntimeProduct(weights)(rows), alone)
    assert network.__wrapped__().get_inputs()


def test_a_linear_map_has_its_bias_and_its_exact_rows() -> None:
    weights, bias = random_weights(24, 128), torch.randn(24)
    matrix = Matrix(24, 128, [weights])
    linear = QuantisedLinear(matrix, Bits.EIGHT, CPU, torch.float32, bias, {7: weights[7]})
    rows = torch.randn(3, 128)
    expected = F.linear(rows, weights, bias)
    assert (linear(rows) - expected).norm() < 0.02 * expected.norm()
    total = expected.clone()
    linear.add_to(total, rows)
    torch.testing.assert_close(total, expected + linear(rows))
    assert torch.equal(linear.rows([7, 7]), weights[[7, 7]])


def test_an_embedding_is_its_rows() -> None:
    weights = random_weights(24, 128)
    embedding = QuantisedEmbedding(Matrix(24, 128, [weights]), Bits.EIGHT, CPU, torch.bfloat16)
    found = embedding(torch.tensor([5, 0, 5]))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, weights[[5, 0, 5]].bfloat16(), atol=0.03, rtol=0.02)


def decisions(checkpoint: Checkpoint, num_chunks: int = 4) -> list[Decision]:
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    session = core.open(SessionSettings(sampling=GREEDY, max_reply_tokens=4))
    found = []
    for chunk in noise_chunks(num_chunks):
        core.hear(session, chunk)
        found += [event for event in run_steps(core) if isinstance(event, Decision)]
    return found


def rounded(checkpoint: Checkpoint, bits: Bits) -> Checkpoint:
    """A checkpoint whose weights are what quantised ones stand for, as plain numbers."""
    control = checkpoint.control_tokens
    decisions = [control.keep_silence, control.text_begin]
    exact = checkpoint.language_model.lm_head.weight[decisions].clone()
    for name, module in checkpoint.language_model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            in_layer = name.startswith("model.layers")
            round_weights(module.weight, bits if in_layer else bits.of_the_rest)
    checkpoint.language_model.lm_head.weight[decisions] = exact
    for module in checkpoint.audio_tower.modules():
        if isinstance(module, nn.Linear):
            round_weights(module.weight, bits.of_the_rest)
    return checkpoint


def round_weights(weights: torch.Tensor, bits: Bits) -> None:
    weights.copy_(quantised(weights, bits).widened(slice(0, len(weights)), torch.float32))


@pytest.mark.parametrize("bits", QUANTISED)
def test_a_quantised_checkpoint_is_the_one_of_its_rounded_weights(
    golden_checkpoint_dir: Path, bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded, joined and put in places: with the plain product, there is no other error."""
    source = str(golden_checkpoint_dir)
    monkeypatch.setattr(
        "backend.model.quantised._product", lambda weights, _: WidenedProduct(weights)
    )
    found = decisions(load_checkpoint(source, device="cpu", bits=bits))
    expected = decisions(rounded(load_checkpoint(source, device="cpu"), bits))
    assert [each.speak for each in found] == [each.speak for each in expected]
    assert [each.speak_probability for each in found] == pytest.approx(
        [each.speak_probability for each in expected], abs=1e-4
    )


@pytest.fixture(scope="module")
def with_8_bits() -> Checkpoint:
    return load_checkpoint(device="cpu", bits=8)


def test_recordings_say_what_they_were_made_with(with_8_bits: Checkpoint) -> None:
    stated = describe(with_8_bits, SessionSettings(), 2048).checkpoint
    assert (stated.dtype, stated.bits) == ("float32", 8)
    assert stated.number_format == with_8_bits.number_format == "float32 with 8-bit weights"


@pytest.mark.parametrize("bits", [0, 5, 32])
def test_weights_of_other_sizes_are_refused(bits: int) -> None:
    with pytest.raises(SettingsError, match=f"bits must be one of 16, 8, 4, not {bits}"):
        load_checkpoint(device="cpu", bits=bits)


def test_the_embedded_checkpoint_decides_with_8_bits_as_with_32(
    with_8_bits: Checkpoint, embedded_checkpoint: Checkpoint
) -> None:
    loaded = with_8_bits
    assert num_weights(loaded.language_model) == num_weights(embedded_checkpoint.language_model)
    for found, expected in zip(decisions(loaded), decisions(embedded_checkpoint), strict=True):
        assert found.speak == expected.speak
        assert found.speak_probability == pytest.approx(expected.speak_probability, abs=0.02)


def test_what_is_joined_is_not_held_twice(tmp_path: Path) -> None:
    """No module whose weights were quantised keeps them as they were."""
    config = small_language_model_config()
    loaded = load_checkpoint(str(write_small_checkpoint(tmp_path, config)), device="cpu", bits=8)
    left = sum(parameter.numel() for parameter in loaded.language_model.parameters())
    biases = (config.n_head + 2 * config.n_query_groups) * config.head_size
    assert left == config.n_layer * (2 * config.n_embd + biases) + config.n_embd
