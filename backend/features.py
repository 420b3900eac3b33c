"""Streaming log-mel: each 0.4 s chunk at constant cost, equal to re-encoding the whole history.

The recipe is Whisper's (`n_mels=128`): 25 ms periodic Hann window, 10 ms hop, slaney mel power,
log10, clamp to 8 below the maximum, scale by (x + 4) / 4. Seen online, a chunk's last frame reaches
40 samples past what has been heard and sees reflected audio there, and the maximum is the
maximum so far. So all that must be kept of the past is 200 samples and one number.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from backend.config import (
    CHUNK_SAMPLES,
    HOP_SAMPLES,
    MEL_FRAMES_PER_CHUNK,
    NUM_MEL_BINS,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
)

HISTORY_SAMPLES = WINDOW_SAMPLES // 2
LOOKAHEAD_SAMPLES = WINDOW_SAMPLES // 2 - HOP_SAMPLES
POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0


class LogMel(nn.Module):
    """Log10 mel power of framed audio, before clamping."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filter_bank(
            num_frequency_bins=WINDOW_SAMPLES // 2 + 1,
            num_mel_filters=NUM_MEL_BINS,
            min_frequency=0.0,
            max_frequency=SAMPLE_RATE_HZ / 2,
            sampling_rate=SAMPLE_RATE_HZ,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)
        self.register_buffer(
            "filters", torch.from_numpy(filters.T).to(torch.float32), persistent=False
        )

    def forward(self, audio: Tensor) -> Tensor:
        """`[batch, samples]` to `[batch, 128, frames]`; frames lie wholly inside the audio."""
        frames = audio.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
        spectrum: Tensor = torch.fft.rfft(frames * self.window)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        mel = power @ self.filters.T
        return mel.clamp_min_(POWER_FLOOR).log10_().transpose(1, 2)


class StreamingLogMel(nn.Module):
    """Log-mel of many sessions' newest chunks; each session's past lies in its slot."""

    history: Tensor
    maximum: Tensor

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        self.log_mel = LogMel()
        self.register_buffer("history", torch.zeros(num_slots, HISTORY_SAMPLES), persistent=False)
        self.register_buffer("maximum", torch.full((num_slots,), -torch.inf), persistent=False)

    def reset(self, slot: int) -> None:
        """Forget what `slot` has heard."""
        self.maximum[slot] = -torch.inf

    @torch.no_grad()
    def forward(self, chunks: Tensor, slots: Tensor) -> Tensor:
        """The newest chunk of each of several sessions.

        Args:
            chunks: `[batch, 6400]` float32 in [-1, 1].
            slots: `[batch]` int64, all different.

        Returns:
            `[batch, 128, 40]`.
        """
        assert chunks.shape[1:] == (CHUNK_SAMPLES,), f"expected [batch, 6400], got {chunks.shape}"
        maximum = self.maximum[slots]
        # A session that has heard nothing yet starts with its own audio reflected.
        mirrored = chunks[:, 1 : HISTORY_SAMPLES + 1].flip(1)
        before = torch.where(maximum.isinf()[:, None], mirrored, self.history[slots])
        segment = F.pad(torch.cat([before, chunks], dim=1), (0, LOOKAHEAD_SAMPLES), mode="reflect")
        log_mel = self.log_mel(segment)
        maximum = torch.maximum(maximum, log_mel.amax(dim=(1, 2)))
        self.history[slots] = chunks[:, -HISTORY_SAMPLES:]
        self.maximum[slots] = maximum
        return scale(log_mel, maximum[:, None, None])


def scale(log_mel: Tensor, maximum: Tensor) -> Tensor:
    """Clamp to the dynamic range below `maximum` and scale as Whisper does."""
    return (log_mel.maximum(maximum - DYNAMIC_RANGE) + 4.0) / 4.0


@torch.no_grad()
def offline_log_mel(log_mel: LogMel, audio: Tensor) -> Tensor:
    """Log-mel of a whole clip `[samples]`, zero-padded to whole chunks: `[128, 40 n]`.

    Both edges are reflected and the maximum is the clip's; the frame past the end is dropped.
    """
    padded = F.pad(audio, (0, -len(audio) % CHUNK_SAMPLES))[None]
    segment = F.pad(padded, (HISTORY_SAMPLES, LOOKAHEAD_SAMPLES), mode="reflect")
    frames = log_mel(segment)[0]
    assert frames.shape[1] % MEL_FRAMES_PER_CHUNK == 0
    return scale(frames, frames.amax())
