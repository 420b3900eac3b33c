"""Audio on its way in: PCM, sample rates, chunks of 0.4 s and files of any format."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ
from backend.errors import AudioInputError

Samples = npt.NDArray[np.float32]

PCM16_SCALE = 32_768
MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000
SILENCE_PEAK = 1 / PCM16_SCALE
"""Audio that stays below one 16-bit step is silent."""
_BLOCK_SECONDS = 1.0


def pcm16_to_float(pcm: bytes) -> Samples:
    """Little-endian 16-bit PCM as float32 in [-1, 1).

    Raises:
        AudioInputError: an odd number of bytes.
    """
    if len(pcm) % 2:
        raise AudioInputError(f"16-bit audio has an even number of bytes, not {len(pcm)}")
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(PCM16_SCALE)


def float_to_pcm16(samples: Samples) -> bytes:
    """Float audio as little-endian 16-bit PCM; what lies outside [-1, 1) is clipped."""
    steps = np.rint(samples * PCM16_SCALE).clip(-PCM16_SCALE, PCM16_SCALE - 1)
    return steps.astype("<i2").tobytes()


class Resampler:
    """Changes the sample rate of a mono stream, block by block.

    Raises:
        AudioInputError: a rate that no recording has.
    """

    def __init__(self, rate_hz: int, target_rate_hz: int = SAMPLE_RATE_HZ) -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise AudioInputError(
                f"the sample rate must be between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz, not {rate_hz}"
            )
        self._stream = (
            None
            if rate_hz == target_rate_hz
            else soxr.ResampleStream(rate_hz, target_rate_hz, num_channels=1, dtype="float32")
        )

    def process(self, samples: Samples) -> Samples:
        """More audio in; what can be computed so far out (the filter looks ahead)."""
        return self._convert(samples, is_last=False)

    def flush(self) -> Samples:
        """What the filter still holds. The resampler cannot be used afterwards."""
        return self._convert(np.empty(0, np.float32), is_last=True)

    def _convert(self, samples: Samples, *, is_last: bool) -> Samples:
        if self._stream is None:
            return samples
        converted: Samples = self._stream.resample_chunk(samples, last=is_last)
        return converted


class Chunker:
    """Cuts blocks of any size into chunks `[6400]`."""

    def __init__(self) -> None:
        self._rest: Samples = np.empty(0, np.float32)

    def push(self, samples: Samples) -> list[Samples]:
        """The chunks that more audio `[n]` completes; the rest waits.

        Raises:
            AudioInputError: a value that is not a finite number; the block is left out.
        """
        if not np.isfinite(samples).all():
            raise AudioInputError("the audio holds values that are not finite numbers")
        waiting = np.concatenate([self._rest, samples], dtype=np.float32)
        end = len(waiting) - len(waiting) % CHUNK_SAMPLES
        self._rest = waiting[end:].copy()
        return list(waiting[:end].reshape(-1, CHUNK_SAMPLES))

    def flush(self) -> Samples | None:
        """What waits, padded with zeros to a chunk; None where nothing waits."""
        rest, self._rest = self._rest, np.empty(0, np.float32)
        return np.pad(rest, (0, CHUNK_SAMPLES - len(rest))) if len(rest) else None


def read_audio(path: str | Path) -> Samples:
    """A whole file as mono float32 at 16 kHz; see `stream_audio`."""
    return np.concatenate(list(stream_audio(path)))


def stream_audio(path: str | Path) -> Iterator[Samples]:
    """A file as blocks of mono float32 at 16 kHz, about a second each.

    Any format that libsndfile or FFmpeg reads, at any rate; channels are averaged.

    Raises:
        AudioInputError: it cannot be read, holds no audio, only silence or broken samples.
    """
    path = Path(path)
    num_samples = 0
    for block in _decode(path):
        num_samples += len(block)
        if not (np.abs(block) < SILENCE_PEAK).all():
            break
    else:
        raise AudioInputError(f"{path} holds only silence" if num_samples else f"{path} is empty")
    for block in _decode(path):
        if not np.isfinite(block).all():
            raise AudioInputError(f"{path} holds values that are not finite numbers")
        yield block


def _decode(path: Path) -> Iterator[Samples]:
    try:
        with path.open("rb") as file:
            try:
                sound = soundfile.SoundFile(file)
            except (soundfile.LibsndfileError, TypeError):
                # TypeError: the name ends in `.raw`, for which it wants to be told the rate.
                yield from _decode_with_ffmpeg(path)
            else:
                yield from _decode_with_libsndfile(sound)
    except AudioInputError as error:
        raise AudioInputError(f"{path}: {error}") from error
    except soundfile.LibsndfileError as error:
        raise AudioInputError(f"{path} is damaged: {error.error_string}") from error
    except av.FFmpegError as error:
        raise AudioInputError(f"{path} cannot be read as audio: {error.strerror}") from error
    except (OSError, ValueError) as error:
        # ValueError: a name that no file can have, such as one with a zero byte.
        reason = getattr(error, "strerror", None) or error
        raise AudioInputError(f"{path} cannot be read: {reason}") from error


def _decode_with_libsndfile(sound: soundfile.SoundFile) -> Iterator[Samples]:
    with sound:
        resampler = Resampler(sound.samplerate)
        num_frames = max(1, round(sound.samplerate * _BLOCK_SECONDS))
        for block in sound.blocks(num_frames, dtype="float32", always_2d=True):
            yield resampler.process(block.mean(axis=1))
        yield resampler.flush()


def _decode_with_ffmpeg(path: Path) -> Iterator[Samples]:
    # Without `file:`, a colon in the name would end a protocol's.
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        if not container.streams.audio:
            raise AudioInputError("it holds no audio")
        frames = container.decode(container.streams.audio[0])
        # A stream may change its format on the way, and then differ from what its header says.
        for (rate_hz, *_), alike in groupby(frames, key=_format_of):
            resampler = Resampler(rate_hz)
            # It keeps rate and layout, so that it holds nothing back and needs no flush.
            to_float = av.AudioResampler(format="fltp")
            for frame in alike:
                for converted in to_float.resample(frame):
                    yield resampler.process(converted.to_ndarray().mean(axis=0))
            yield resampler.flush()


def _format_of(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name, frame.layout.name
