"""The decoder computes what the library's model computes, from the same memory."""

from typing import Any

import pytest
import torch

from backend.model.decoder import Decoder, LayerReader
from backend.model.kv_cache import CacheRow, RowAttention
from backend.model.language_model import (
    LanguageModelConfig,
    empty_language_model,
    litgpt_state_dict,
)
from backend.model.weights import DenseProjection
from tests.small_checkpoint import CPU, small_language_model_config

NUM_TOKENS = 70


def model_of(config: LanguageModelConfig, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = empty_language_model(config, device=CPU, dtype=dtype).requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("n_layer", [1, 3])
def test_pieces_of_any_length_equal_the_library_s_whole_pass(n_layer: int) -> None:
    model = model_of(small_language_model_config(n_layer=n_layer))
    ids = torch.randint(0, 64, (NUM_TOKENS,))
    hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    decoder = Decoder(model, None, num_slots=3, max_positions=NUM_TOKENS)
    start = 0
    for steps in (13, 1, 1, 5, 13, 13, 2, 13, 1, 8):
        row = CacheRow(2, start, steps)
        positions = torch.arange(row.start, row.end)
        last = torch.tensor([steps - 1])
        attention = RowAttention(decoder.cache, [row])
        found = decoder.forward(decoder.embed(ids[positions]), attention, positions, last)
        start = row.end
        torch.testing.assert_close(found, hidden[start - 1 :][:1], atol=1e-5, rtol=1e-4)
    assert start == NUM_TOKENS
    torch.testing.assert_close(decoder.logits(hidden), model.lm_head(hidden), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_reader_sees_every_position_above_its_layer(layer: int) -> None:
    model = model_of(small_language_model_config(n_layer=3))
    ids, positions = torch.randint(0, 64, (13,)), torch.arange(13)
    decoder = Decoder(model, None, num_slots=1, max_positions=13)
    seen: list[torch.Tensor] = []
    reader = LayerReader(layer, lambda hidden: seen.append(hidden.clone()))
    attention = RowAttention(decoder.cache, [CacheRow(0, 0, 13)])
    last = torch.tensor([12])
    found = decoder.forward(decoder.embed(ids), attention, positions, last, reader)
    whole = model.model(input_ids=ids[None], use_cache=False, output_hidden_states=True)
    torch.testing.assert_close(found, whole.last_hidden_state[0, -1:], atol=1e-5, rtol=1e-4)
    # The library tells the last layer's only behind the norm.
    (read,) = seen if layer < 3 else [decoder._rms_norm(seen[0], decoder._norm)]
    torch.testing.assert_close(read, whole.hidden_states[layer][0], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_rows_of_which_nothing_is_wanted_are_stored_all_the_same() -> None:
    model = model_of(small_language_model_config())
    ids = torch.randint(0, 64, (26,))
    hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    decoder = Decoder(model, None, num_slots=1, max_positions=26)
    nothing = torch.empty(0, dtype=torch.int64)
    for piece in torch.arange(26).split(13):
        row, last = CacheRow(0, int(piece[0]), 13), nothing if piece[0] == 0 else torch.tensor([12])
        attention = RowAttention(decoder.cache, [row])
        found = decoder.forward(decoder.embed(ids[piece]), attention, piece, last)
        assert len(found) == len(last)
    torch.testing.assert_close(found, hidden[-1:], atol=1e-5, rtol=1e-4)


def test_no_large_weight_is_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.model.weights.LARGEST_COPY_BYTES", 0)
    model = model_of(small_language_model_config())
    before = {name: tensor.clone() for name, tensor in litgpt_state_dict(model).items()}
    for _ in range(2):
        decoder = Decoder(model, None, num_slots=1, max_positions=8)
        for layer, fused in zip(model.model.layers, decoder._layers, strict=True):
            storages = {
                weight.untyped_storage().data_ptr()
                for weight in (
                    layer.self_attn.q_proj.weight,
                    layer.self_attn.k_proj.weight,
                    layer.self_attn.v_proj.weight,
                )
            }
            assert isinstance(fused.qkv, DenseProjection)
            assert isinstance(fused.gate_up, DenseProjection)
            assert storages == {fused.qkv.weight.untyped_storage().data_ptr()}
            assert layer.mlp.up_proj.weight.data_ptr() > fused.gate_up.weight.data_ptr()
    for name, tensor in litgpt_state_dict(model).items():
        assert torch.equal(tensor, before[name]), name


def test_angles_of_late_positions_stay_apart_in_half_precision() -> None:
    decoder = Decoder(
        model_of(small_language_model_config(), torch.float16), None, 1, max_positions=256
    )
    assert decoder._cos.dtype == torch.float16
    exact = torch.cos(torch.arange(256, dtype=torch.float64))
    torch.testing.assert_close(decoder._cos[:, 0, 0].double(), exact, atol=1e-3, rtol=0)
