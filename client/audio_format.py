"""The model's clock: 16 kHz, one decision for every 0.4 s."""

import numpy as np
import numpy.typing as npt

SAMPLE_RATE_HZ = 16_000
CHUNK_SAMPLES = 6400
CHUNK_SECONDS = CHUNK_SAMPLES / SAMPLE_RATE_HZ

FRAME_SAMPLES = 800
"""They divide chunks, so the frame that completes a chunk is sent when the chunk ends."""
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE_HZ

REPLY_RATE_HZ = 24_000
"""Of spoken replies, whatever the loudspeaker plays at."""

PCM16_SCALE = 32_768

Samples = npt.NDArray[np.float32]


def pcm16_to_float(pcm: bytes) -> Samples:
    """Little-endian 16-bit PCM, an even number of bytes, as float32 in [-1, 1)."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(PCM16_SCALE)


def float_to_pcm16(samples: Samples) -> bytes:
    """Float audio as little-endian 16-bit PCM; what lies outside [-1, 1) is clipped."""
    steps = np.rint(samples * PCM16_SCALE).clip(-PCM16_SCALE, PCM16_SCALE - 1)
    return steps.astype("<i2").tobytes()
