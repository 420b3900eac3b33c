"""Log-mel of whole streams at once, equal to what the live front end gives chunk by chunk."""

import torch
from torch import Tensor
from torch.nn import functional as F

from backend.config import CHUNK_SAMPLES
from backend.features import HISTORY_SAMPLES, LOOKAHEAD_SAMPLES, LogMel, scale


@torch.no_grad()
def stream_log_mel(log_mel: LogMel, audio: Tensor, maximum: Tensor | None = None) -> Tensor:
    """Features of streams from their beginning.

    Args:
        log_mel: the framed log-mel of the live front end.
        audio: `[streams, chunks * 6400]` float32.
        maximum: `[streams]`, the loudest value heard before the stream; None: nothing was.

    Returns:
        `[streams, chunks, 128, 40]`.
    """
    chunks = audio.unflatten(1, (-1, CHUNK_SAMPLES))
    mirrored = chunks[:, :1, 1 : HISTORY_SAMPLES + 1].flip(2)
    before = torch.cat([mirrored, chunks[:, :-1, -HISTORY_SAMPLES:]], dim=1)
    segments = torch.cat([before, chunks], dim=2).flatten(0, 1)
    segments = F.pad(segments, (0, LOOKAHEAD_SAMPLES), mode="reflect")
    frames = log_mel(segments).unflatten(0, chunks.shape[:2])
    loudest = frames.amax(dim=(2, 3))
    if maximum is not None:
        loudest = loudest.maximum(maximum[:, None])
    return scale(frames, loudest.cummax(dim=1).values[:, :, None, None])
