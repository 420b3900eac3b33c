"""The client's audio on its way to the engine: bytes in, whole chunks out."""

from collections.abc import Iterator

import numpy as np

from backend.audio import Chunker, Resampler, Samples, pcm16_to_float
from backend.config import CHUNK_SAMPLES
from backend.conversation.timeline import Timeline

PCM16_BYTES = 2
"""Of one sample."""

TimedSamples = tuple[Samples, float]
"""A chunk `[6400]` for the model, and where in the client's audio it ends."""


class InputAudio:
    """Resamples to 16 kHz and cuts into chunks.

    Args:
        timeline: counts what goes into chunks.
        rate_hz: of the client's audio.
    """

    def __init__(self, timeline: Timeline, rate_hz: int) -> None:
        self._timeline = timeline
        self._rate_hz = rate_hz
        self._resampler = Resampler(rate_hz)
        self._chunker = Chunker()

    def resample(self, pcm: bytes) -> Samples:
        """More audio at 16 kHz, as far as the filter gives it; `push` cuts it into chunks."""
        return self._resampler.process(pcm16_to_float(pcm))

    def drain(self, rate_hz: int | None = None) -> Samples:
        """What the filter still holds; what comes afterwards is sampled at `rate_hz`."""
        held = self._resampler.flush()
        self._rate_hz = rate_hz or self._rate_hz
        self._resampler = Resampler(self._rate_hz)
        return held

    def push(self, samples: Samples) -> Iterator[TimedSamples]:
        """The chunks that more samples at 16 kHz complete."""
        for chunk in self._chunker.push(samples):
            yield chunk, self._timeline.fill_chunk()

    def pad(self) -> TimedSamples | None:
        """The chunk that waits, filled up with silence, if one does: the client stops here."""
        rest = self._chunker.flush()
        return None if rest is None else (rest, self._timeline.pad_chunk())

    def silence(self) -> TimedSamples:
        """A chunk of silence that takes none of the client's time."""
        return np.zeros(CHUNK_SAMPLES, np.float32), self._timeline.insert_silence()

    def discard(self) -> None:
        """Forget what does not fill a chunk; the client's time goes on."""
        self._timeline.discard()
        self._chunker = Chunker()


def pcm_seconds(pcm: bytes, rate_hz: int) -> float:
    """How long PCM16 bytes last."""
    return len(pcm) / PCM16_BYTES / rate_hz
