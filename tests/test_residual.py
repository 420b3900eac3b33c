"""In float16 the sum that layers add to may outgrow the format, as this family of models has it."""

from typing import Any

import torch
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)

from backend.model.audio_tower import AudioTower, ChunkEncoder, empty_audio_tower
from backend.model.decoder import Decoder
from backend.model.kv_cache import CacheRow, RowAttention
from tests.small_checkpoint import CPU, small_language_model_config
from tests.test_decoder import model_of

LARGEST = torch.finfo(torch.float16).max
STEPS = 40


def language_model_with_outlier() -> Any:
    """One number of the sum goes beyond the format in its first layer; the last norm shrinks it."""
    model = model_of(small_language_model_config(), torch.float16)
    mlp = model.model.layers[0].mlp
    mlp.up_proj.weight.mul_(100)
    mlp.down_proj.weight[3] = 1000.0
    model.model.norm.weight[:] = 2000.0
    model.model.norm.weight[3] = 1.0
    return model


@torch.inference_mode()
def test_a_decoder_goes_beyond_float16() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 64, (STEPS,))
    exact = (
        language_model_with_outlier()
        .float()
        .model(input_ids=ids[None], use_cache=False, output_hidden_states=True)
    )
    assert max(float(hidden.abs().max()) for hidden in exact.hidden_states) > LARGEST
    model = language_model_with_outlier()
    assert not model.model(input_ids=ids[None], use_cache=False).last_hidden_state.isfinite().all()
    decoder = Decoder(model, None, num_slots=1, max_positions=STEPS)
    attention = RowAttention(decoder.cache, [CacheRow(0, 0, STEPS)])
    embeddings = decoder.embed(ids)
    last = torch.tensor([STEPS - 1])
    found = decoder.forward(embeddings, attention, torch.arange(STEPS), last)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), exact.last_hidden_state[0, -1:], atol=5e-3, rtol=5e-3)


def tower_with_outlier(dtype: torch.dtype) -> AudioTower:
    """Both layers add a number to the sum that fits into the format, and their sum does not."""
    torch.manual_seed(0)
    config = Qwen2_5OmniAudioEncoderConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        output_dim=16,
    )
    tower = empty_audio_tower(config, device=CPU, dtype=torch.float32).requires_grad_(False)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for layer in tower.encoder.layers:
        layer.fc2.bias[3] = 0.6 * LARGEST
    tower.encoder.ln_post.weight[:] = 1000.0
    tower.encoder.ln_post.weight[3] = 0.0
    return tower.to(dtype)


@torch.inference_mode()
def test_a_tower_goes_beyond_float16() -> None:
    log_mel = torch.randn(2, 128, 40)
    exact = ChunkEncoder(tower_with_outlier(torch.float32)).encode(log_mel)
    assert not tower_with_outlier(torch.float16)(log_mel).isfinite().all()
    found = ChunkEncoder(tower_with_outlier(torch.float16)).encode(log_mel)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.02)
