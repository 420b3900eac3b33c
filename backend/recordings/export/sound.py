"""The sound of a recording: the microphone and the spoken replies on one time line."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from backend.audio import Resampler, Samples
from backend.config import SAMPLE_RATE_HZ, SPEECH_RATE_HZ
from backend.errors import SessionFileError
from backend.recordings.reader import SessionFile
from backend.recordings.transcript import read_transcript

MP3_COMPRESSION = 0.85
"""About 28 kbit/s for one channel at 16 kHz."""

WAV_BYTES_PER_SECOND = SPEECH_RATE_HZ * 2 * 2
"""Of two channels of 16 bits."""
MAX_SOUNDING = 8
"""Replies at once. They sound one after the other, but for what a client's clock gets wrong."""


def write_wav(file: SessionFile, output: Path) -> None:
    """Stereo at 24 kHz: the microphone left, the replies right."""
    with soundfile.SoundFile(output, "w", SPEECH_RATE_HZ, 2, "PCM_16", format="WAV") as sound:
        for microphone, replies in time_line(file, SPEECH_RATE_HZ):
            sound.write(np.stack([microphone, replies], axis=1))


def write_mp3(file: SessionFile, output: Path | BinaryIO) -> None:
    """Both mixed into one channel, small enough for a page and known to every browser."""
    with soundfile.SoundFile(
        output,
        "w",
        SAMPLE_RATE_HZ,
        1,
        format="MP3",
        bitrate_mode="CONSTANT",
        compression_level=MP3_COMPRESSION,
    ) as sound:
        for microphone, replies in time_line(file, SAMPLE_RATE_HZ):
            sound.write(np.clip(microphone + replies, -1, 1))


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
    """The spoken replies, each where it began to sound; they are decoded as far as they sound."""

    def __init__(self, file: SessionFile, rate_hz: int) -> None:
        self._file = file
        self._rate_hz = rate_hz
        self._position = 0
        self._sounding: list[_Sounding] = []
        spoken = set(file.reply_turns)
        self._waiting = [
            (round(played.starts_at_seconds * rate_hz), reply.turn, played.played_ms)
            for reply in read_transcript(file).replies
            if (played := reply.playback) is not None
            and reply.turn in spoken
            # One that is said to begin after the recording was never heard.
            and played.starts_at_seconds < file.seconds
        ]
        self._waiting.sort(reverse=True)

    @property
    def has_ended(self) -> bool:
        return not self._waiting and not self._sounding

    def take(self, num_samples: int) -> Samples:
        """The next samples, `[num_samples]`.

        Raises:
            SessionFileError: more replies sound at once than can be told apart.
        """
        end = self._position + num_samples
        block = np.zeros(num_samples, np.float32)
        while self._waiting and self._waiting[-1][0] < end:
            if len(self._sounding) == MAX_SOUNDING:
                raise SessionFileError(
                    f"{self._file.name}: more than {MAX_SOUNDING} of its replies sound at once"
                )
            start, turn, played_ms = self._waiting.pop()
            blocks = _heard_blocks(self._file, turn, played_ms, self._rate_hz)
            self._sounding.append(_Sounding(start, blocks))
        self._sounding = [
            reply for reply in self._sounding if reply.mix_into(block, self._position)
        ]
        self._position = end
        return block


class _Sounding:
    """A reply that sounds; of its samples, one block is held."""

    def __init__(self, start: int, blocks: Iterator[Samples]) -> None:
        self._begin = start
        self._block = np.empty(0, np.float32)
        self._blocks = blocks

    def mix_into(self, mixed: Samples, position: int) -> bool:
        """Add what sounds from `position` on to `mixed`; returns whether there is more of it."""
        end = position + len(mixed)
        while self._begin < end:
            block_end = self._begin + len(self._block)
            first, last = max(self._begin, position), min(block_end, end)
            if first < last:
                mixed[first - position : last - position] += self._block[
                    first - self._begin : last - self._begin
                ]
            if block_end > end:
                return True
            following = next(self._blocks, None)
            if following is None:
                return False
            self._begin, self._block = block_end, following
        return True


def _heard_blocks(
    file: SessionFile, turn: int, played_ms: float | None, rate_hz: int
) -> Iterator[Samples]:
    """A spoken reply at `rate_hz`, in blocks `[n]`, as far as it was heard."""
    num_left = None if played_ms is None else round(played_ms * SPEECH_RATE_HZ / 1000)
    resampler = Resampler(SPEECH_RATE_HZ, rate_hz)
    with closing(file.reply_blocks(turn)) as blocks:
        for block in blocks:
            yield resampler.process(block[:num_left])
            if num_left is not None:
                num_left -= len(block)
                if num_left <= 0:
                    break
    yield resampler.flush()
