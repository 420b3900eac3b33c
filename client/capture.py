"""From the blocks of a microphone, of any rate, to frames of 50 ms at 16 kHz.

A clip that is played is heard instead of the microphone, which would hear it a second time.
"""

from collections.abc import Callable

import numpy as np
import soxr

from client.audio_format import (
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    Samples,
    float_to_pcm16,
    pcm16_to_float,
)
from client.clips import Clip
from client.conversation import Frame

FORGET_SECONDS = 0.0005
"""By so much the clock of a microphone may drift with each frame."""
ROOM_SECONDS = 0.4
"""So late a loudspeaker may play the end of a clip."""


class Capture:
    """Resamples and cuts a stream of 16-bit PCM: of two channels their mean, of more the first.

    Args:
        rate_hz, num_channels: of the stream.
        on_clip: gets what is heard of a clip, and whether that was the last of it.
    """

    def __init__(
        self, rate_hz: int, num_channels: int, on_clip: Callable[[Samples, bool], None]
    ) -> None:
        self._num_channels = num_channels
        self._on_clip = on_clip
        self._resampler = (
            None
            if rate_hz == SAMPLE_RATE_HZ
            else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, num_channels=1, dtype="float32")
        )
        self._rest: Samples = np.empty(0, np.float32)
        self.is_muted = False
        self.clip: Clip | None = None
        """What is heard instead, to its end."""
        self._num_silent = 0

    def push(self, pcm: bytes) -> list[Frame]:
        """The frames that another block completes; the rest waits."""
        channels = pcm16_to_float(pcm).reshape(-1, self._num_channels)
        # Arrays give their own mixture first, and sometimes what the loudspeaker plays last.
        samples = channels[:, 0] if self._num_channels > 2 else channels.mean(axis=1)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        if self.clip is not None:
            samples = self._play(self.clip, len(samples))
        elif self.is_muted or self._num_silent > 0:
            # Silence instead of nothing: the model's time goes on.
            self._num_silent = max(0, self._num_silent - len(samples))
            samples = np.zeros_like(samples)
        waiting = np.concatenate([self._rest, samples])
        end = len(waiting) - len(waiting) % FRAME_SAMPLES
        self._rest = waiting[end:].copy()
        return [_frame(samples) for samples in waiting[:end].reshape(-1, FRAME_SAMPLES)]

    def _play(self, clip: Clip, num_samples: int) -> Samples:
        part = clip.read(num_samples)
        is_last = len(part) < num_samples
        if is_last:
            self.stop_clip()
        self._on_clip(part, is_last)
        return np.pad(part, (0, num_samples - len(part)))

    def stop_clip(self) -> None:
        """Hear the microphone again, once the room is quiet."""
        self.clip = None
        self.hear_nothing(0)

    def hear_nothing(self, num_samples: int) -> None:
        """For as long as something plays, and until the room is quiet."""
        self._num_silent = num_samples + round(ROOM_SECONDS * SAMPLE_RATE_HZ)


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
