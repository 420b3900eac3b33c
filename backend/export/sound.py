"""The sound of a recording: the microphone and the spoken replies on one time line."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile

from backend.audio import Resampler, Samples
from backend.config import SAMPLE_RATE_HZ
from backend.session_file import SessionFile, read_story
from backend.session_file.records import REPLY_RATE_HZ

MP3_COMPRESSION = 0.85
"""About 28 kbit/s for one channel at 16 kHz."""


def write_wav(file: SessionFile, output: Path) -> None:
    """Stereo at 24 kHz: the microphone left, the replies right."""
    with soundfile.SoundFile(output, "w", REPLY_RATE_HZ, 2, "PCM_16", format="WAV") as sound:
        for microphone, replies in time_line(file, REPLY_RATE_HZ):
            sound.write(np.stack([microphone, replies], axis=1))


def mp3(file: SessionFile) -> bytes:
    """Both mixed into one channel, small enough for a page and known to every browser."""
    content = BytesIO()
    with soundfile.SoundFile(
        content,
        "w",
        SAMPLE_RATE_HZ,
        1,
        format="MP3",
        bitrate_mode="CONSTANT",
        compression_level=MP3_COMPRESSION,
    ) as sound:
        for microphone, replies in time_line(file, SAMPLE_RATE_HZ):
            sound.write(np.clip(microphone + replies, -1, 1))
    return content.getvalue()


def time_line(file: SessionFile, rate_hz: int) -> Iterator[tuple[Samples, Samples]]:
    """Blocks `[n]` of the microphone and of the replies at `rate_hz`, from the beginning.

    Goes on until both have ended.
    """
    replies = _Replies(file, rate_hz)
    resampler = Resampler(SAMPLE_RATE_HZ, rate_hz)
    for chunk in file.chunks():
        block = resampler.process(chunk)
        yield block, replies.take(len(block))
    block = resampler.flush()
    yield block, replies.take(len(block))
    while not replies.has_ended:
        yield np.zeros(rate_hz, np.float32), replies.take(rate_hz)


class _Replies:
    """The spoken replies, each where it began to sound; only those that sound are held."""

    def __init__(self, file: SessionFile, rate_hz: int) -> None:
        self._file = file
        self._rate_hz = rate_hz
        self._position = 0
        self._sounding: list[tuple[int, Samples]] = []
        spoken = set(file.reply_turns)
        self._waiting = [
            (round(played.starts_at_seconds * rate_hz), reply.turn, played.played_ms)
            for reply in read_story(file).replies
            if (played := reply.playback) is not None
            and reply.turn in spoken
            # One that is said to begin after the recording was heard by nobody.
            and played.starts_at_seconds < file.seconds
        ]
        self._waiting.sort(reverse=True)

    @property
    def has_ended(self) -> bool:
        return not self._waiting and not self._sounding

    def take(self, num_samples: int) -> Samples:
        """The next samples, `[num_samples]`."""
        end = self._position + num_samples
        block = np.zeros(num_samples, np.float32)
        while self._waiting and self._waiting[-1][0] < end:
            start, turn, played_ms = self._waiting.pop()
            self._sounding.append((start, self._samples(turn, played_ms)))
        for start, samples in self._sounding:
            first = max(start, self._position)
            last = min(start + len(samples), end)
            if first < last:
                block[first - self._position : last - self._position] += samples[
                    first - start : last - start
                ]
        self._sounding = [(s, samples) for s, samples in self._sounding if s + len(samples) > end]
        self._position = end
        return block

    def _samples(self, turn: int, played_ms: float | None) -> Samples:
        samples = self._file.reply_audio(turn)
        if played_ms is not None:
            samples = samples[: round(played_ms * REPLY_RATE_HZ / 1000)]
        resampler = Resampler(REPLY_RATE_HZ, self._rate_hz)
        return np.concatenate([resampler.process(samples), resampler.flush()])
