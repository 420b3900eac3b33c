"""The client's audio on its way to the engine: bytes in, whole chunks out, time in samples."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from backend.audio import Chunker, Resampler, Samples, pcm16_to_float
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ
from backend.wires.errors import WireError

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
        self._num_waiting_samples = 0
        self._resampler = Resampler(rate_hz)
        self._chunker = Chunker()

    @property
    def seconds(self) -> float:
        """How much of the client's audio went into chunks or was cleared."""
        return self._num_heard_samples / SAMPLE_RATE_HZ

    def resample(self, pcm: bytes) -> Samples:
        """More audio at 16 kHz, as far as the filter gives it; `push` cuts it into chunks."""
        return self._resampler.process(pcm16_to_float(pcm))

    def drain(self, rate_hz: int | None = None) -> Samples:
        """What the filter still holds; what comes afterwards is sampled at `rate_hz`."""
        held = self._resampler.flush()
        self._rate_hz = rate_hz or self._rate_hz
        self._resampler = Resampler(self._rate_hz)
        return held

    def push(self, samples: Samples) -> Iterator[TimedChunk]:
        """The chunks that more samples at 16 kHz complete."""
        self._num_waiting_samples += len(samples)
        for chunk in self._chunker.push(samples):
            yield self._timed(chunk, CHUNK_SAMPLES)

    def pad(self) -> Iterator[TimedChunk]:
        """The chunk that waits, filled up with silence, if one does: the client stops here."""
        if (rest := self._chunker.flush()) is not None:
            yield self._timed(rest, self._num_waiting_samples)

    def silence(self) -> TimedChunk:
        """A chunk of silence that takes none of the client's time."""
        return self._timed(np.zeros(CHUNK_SAMPLES, np.float32), 0)

    def clear(self) -> Samples:
        """Forget what does not fill a chunk; the client's time goes on.

        Returns what the filter still held, which is forgotten too.
        """
        held = self.drain()
        self._num_heard_samples += self._num_waiting_samples + len(held)
        self._num_waiting_samples = 0
        self._chunker = Chunker()
        return held

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
