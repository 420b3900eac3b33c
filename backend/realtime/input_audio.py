"""The client's audio on its way to the engine: bytes in, whole chunks out, time in samples."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from backend.audio import Chunker, Resampler, Samples, pcm16_to_float
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ
from backend.realtime.errors import WireError

PCM16_BYTES = 2
"""Of one sample."""


@dataclass(frozen=True, slots=True)
class TimedChunk:
    """A chunk for the engine, and where in the client's audio it ends."""

    samples: Samples
    seconds: float


class InputAudioBuffer:
    """Resamples to 16 kHz and cuts into chunks; counts what the client sent, not the padding."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._num_heard_samples = 0
        self._resampler: Resampler
        self.clear()

    def set_rate(self, rate_hz: int) -> Iterator[TimedChunk]:
        """What comes from now on is sampled at another rate; what the old filter holds is heard."""
        held = self._resampler.flush()
        self._rate_hz = rate_hz
        self._resampler = Resampler(rate_hz)
        yield from self._push(held)

    def append(self, pcm: bytes) -> Iterator[TimedChunk]:
        """The chunks that more audio completes, as they are taken."""
        yield from self._push(self._resampler.process(pcm16_to_float(pcm)))

    def flush(self) -> Iterator[TimedChunk]:
        """All that waits, as the client stops here: the last chunk is padded with silence."""
        yield from self.set_rate(self._rate_hz)
        if (rest := self._chunker.flush()) is not None:
            yield self._timed(rest, self._num_waiting_samples)

    def silence(self) -> TimedChunk:
        """A chunk of silence that takes none of the client's time."""
        return self._timed(np.zeros(CHUNK_SAMPLES, np.float32), 0)

    def clear(self) -> None:
        """Forget what does not fill a chunk, in the filter too."""
        self._resampler = Resampler(self._rate_hz)
        self._chunker = Chunker()
        self._num_waiting_samples = 0

    def _push(self, samples: Samples) -> Iterator[TimedChunk]:
        self._num_waiting_samples += len(samples)
        for chunk in self._chunker.push(samples):
            yield self._timed(chunk, CHUNK_SAMPLES)

    def _timed(self, chunk: Samples, num_samples: int) -> TimedChunk:
        self._num_heard_samples += num_samples
        self._num_waiting_samples -= num_samples
        return TimedChunk(chunk, self._num_heard_samples / SAMPLE_RATE_HZ)


def pcm_seconds(pcm: bytes, rate_hz: int) -> float:
    """How long PCM16 bytes last."""
    return len(pcm) / PCM16_BYTES / rate_hz


def decode_audio(encoded: str) -> bytes:
    """PCM16 bytes of base64 text.

    Raises:
        WireError: wrong base64, or not a whole number of samples.
    """
    try:
        pcm = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(f"the audio is not base64: {error}", "invalid_base64", "audio") from error
    if len(pcm) % PCM16_BYTES:
        raise WireError(
            f"16-bit audio has an even number of bytes, not {len(pcm)}", "odd_byte_count", "audio"
        )
    return pcm
