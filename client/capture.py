"""From the blocks of a microphone, of any rate, to frames of 50 ms at 16 kHz."""

import numpy as np
import soxr

from client.audio_format import (
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    Samples,
    float_to_pcm16,
    pcm16_to_float,
)
from client.conversation import Frame

FORGET_SECONDS = 0.0005
"""By so much the clock of a microphone may drift with each frame."""


class Capture:
    """Resamples and cuts a stream of 16-bit PCM; channels are averaged."""

    def __init__(self, rate_hz: int, num_channels: int) -> None:
        self._num_channels = num_channels
        self._resampler = (
            None
            if rate_hz == SAMPLE_RATE_HZ
            else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, num_channels=1, dtype="float32")
        )
        self._rest: Samples = np.empty(0, np.float32)
        self.is_muted = False

    def push(self, pcm: bytes) -> list[Frame]:
        """The frames that another block completes; the rest waits."""
        samples = pcm16_to_float(pcm).reshape(-1, self._num_channels).mean(axis=1)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        # Silence instead of nothing: the model's time goes on.
        waiting = np.concatenate([self._rest, np.zeros_like(samples) if self.is_muted else samples])
        end = len(waiting) - len(waiting) % FRAME_SAMPLES
        self._rest = waiting[end:].copy()
        return [_frame(samples) for samples in waiting[:end].reshape(-1, FRAME_SAMPLES)]


def _frame(samples: Samples) -> Frame:
    return Frame(
        float_to_pcm16(samples),
        peak=min(1.0, float(np.abs(samples).max())),
        level=float(np.sqrt(np.mean(samples**2))),
    )


class CaptureClock:
    """When what was captured was: blocks come late, never early, so the shortest delay counts."""

    def __init__(self) -> None:
        self._offset = float("inf")

    def observe(self, seconds: float, now: float) -> float:
        """So many seconds had been captured by `now`; returns when the last of them was."""
        self._offset = min(now - seconds, self._offset + FORGET_SECONDS)
        return seconds + self._offset

    def lost(self) -> None:
        """Something is missing: what comes now was captured later than the count says."""
        self._offset = float("inf")
