"""The streaming features are the reference's, chunk by chunk and at constant cost."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.config import CHUNK_SAMPLES, MEL_FRAMES_PER_CHUNK
from backend.features import LogMel, StreamingLogMel, offline_log_mel
from backend.model.audio_tower import encode_clip
from backend.model.checkpoint import Checkpoint

TOLERANCE = 1e-4


def chunks_of(audio: np.ndarray) -> Tensor:
    padded = np.pad(audio, (0, -len(audio) % CHUNK_SAMPLES))
    return torch.from_numpy(padded).reshape(-1, CHUNK_SAMPLES)


def stream(streaming: StreamingLogMel, chunks: Tensor, slot: int) -> Tensor:
    """Log-mel `[chunks, 128, 40]` of one session that hears `chunks` in turn."""
    slots = torch.tensor([slot])
    return torch.cat([streaming(chunk[None], slots) for chunk in chunks])


def test_online_log_mel_is_the_reference_s(golden_clip: Mapping[str, np.ndarray]) -> None:
    chunks = chunks_of(golden_clip["audio"])
    log_mel = torch.cat(list(stream(StreamingLogMel(1), chunks, slot=0)), dim=1).numpy()
    np.testing.assert_allclose(log_mel, golden_clip["logmel_online"], atol=TOLERANCE, rtol=0)


def test_online_features_are_the_reference_s(
    golden_checkpoint: Checkpoint, golden_clip: Mapping[str, np.ndarray]
) -> None:
    chunks = chunks_of(golden_clip["audio"])
    with torch.no_grad():
        features = golden_checkpoint.audio_tower(stream(StreamingLogMel(1), chunks, slot=0))
    np.testing.assert_allclose(features, golden_clip["feat_online"], atol=TOLERANCE, rtol=0)


def test_offline_log_mel_and_features_are_the_reference_s(
    golden_checkpoint: Checkpoint, golden_clip: Mapping[str, np.ndarray]
) -> None:
    log_mel = offline_log_mel(LogMel(), torch.from_numpy(golden_clip["audio"]))
    np.testing.assert_allclose(log_mel, golden_clip["logmel_offline"], atol=TOLERANCE, rtol=0)
    features = encode_clip(golden_checkpoint.audio_tower, log_mel)
    np.testing.assert_allclose(features, golden_clip["feat_offline"], atol=TOLERANCE, rtol=0)


def test_streaming_equals_the_whole(golden_clip: Mapping[str, np.ndarray]) -> None:
    """With nothing clamped, only a chunk's last frame, which looks ahead, tells them apart."""
    chunks = chunks_of(golden_clip["audio"])
    streaming = StreamingLogMel(1)
    # The loudest sound comes first: so the maximum so far is the maximum of the whole.
    loud = torch.sin(torch.arange(CHUNK_SAMPLES) * 0.3)[None]
    chunks = torch.cat([loud, chunks])
    online = torch.cat(list(stream(streaming, chunks, slot=0)), dim=1)
    whole = offline_log_mel(LogMel(), chunks.flatten())
    inner = [f for f in range(whole.shape[1]) if (f + 1) % MEL_FRAMES_PER_CHUNK]
    torch.testing.assert_close(online[:, inner], whole[:, inner], atol=TOLERANCE, rtol=0)


def test_the_tower_hears_each_chunk_on_its_own(
    golden_checkpoint: Checkpoint, golden_clip: Mapping[str, np.ndarray]
) -> None:
    log_mel = torch.from_numpy(golden_clip["logmel_offline"])
    with torch.no_grad():
        first = golden_checkpoint.audio_tower(log_mel[None, :, :MEL_FRAMES_PER_CHUNK])
    whole = encode_clip(golden_checkpoint.audio_tower, log_mel)
    torch.testing.assert_close(first, whole[:1], atol=TOLERANCE, rtol=0)


def test_slots_do_not_mix(golden_clip: Mapping[str, np.ndarray]) -> None:
    mine = chunks_of(golden_clip["audio"])
    yours = 0.5 * mine.flip(0)
    together = StreamingLogMel(3)
    both = torch.stack(
        [
            together(torch.stack(pair), torch.tensor([2, 0]))
            for pair in zip(mine, yours, strict=True)
        ]
    )
    torch.testing.assert_close(both[:, 0], stream(StreamingLogMel(1), mine, slot=0))
    torch.testing.assert_close(both[:, 1], stream(StreamingLogMel(1), yours, slot=0))


def test_a_reset_slot_remembers_nothing(golden_clip: Mapping[str, np.ndarray]) -> None:
    chunks = chunks_of(golden_clip["audio"])
    reused = StreamingLogMel(2)
    stream(reused, torch.ones_like(chunks), slot=1)
    reused.reset(1)
    assert torch.equal(stream(reused, chunks, slot=1), stream(StreamingLogMel(1), chunks, slot=0))


def test_digital_silence_is_finite() -> None:
    assert stream(StreamingLogMel(1), torch.zeros(2, CHUNK_SAMPLES), slot=0).isfinite().all()


def test_a_chunk_of_another_length_is_refused() -> None:
    with pytest.raises(AssertionError, match="6400"):
        StreamingLogMel(1)(torch.zeros(1, 100), torch.tensor([0]))
