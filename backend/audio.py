"""Audio on its way in: PCM, sample rates, chunks of 0.4 s and files of any format."""

import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ
from backend.errors import AudioInputError

logger = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]
AudioBlock: TypeAlias = npt.NDArray[np.floating[Any]] | npt.NDArray[np.int16]
"""A piece of a recording: `[samples]` or `[samples, channels]`, floats in [-1, 1] or int16."""
Mix: TypeAlias = Callable[[Samples], Samples]
"""Makes one channel `[samples]` of `[channels, samples]`."""

PCM16_SCALE = 32_768
PCM16_BYTES = 2
"""Of one sample."""
MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000
SILENCE_PEAK = 1 / PCM16_SCALE
"""Audio that stays below one 16-bit step is silent."""
TRAILING_SILENCE_CHUNKS = 3
"""At least 1 s after a recording's end, so that a reply to its last word can start."""
MAX_CHANNELS = 64
MAX_LEVEL = 8.0
"""Floats beyond this are no audio in [-1, 1] that is too loud, but numbers of another scale."""
_BLOCK_SECONDS = 1.0


def pcm16_to_float(pcm: bytes) -> Samples:
    """Little-endian 16-bit PCM as float32 in [-1, 1).

    Raises:
        AudioInputError: an odd number of bytes.
    """
    if len(pcm) % PCM16_BYTES:
        raise AudioInputError(f"16-bit audio has an even number of bytes, not {len(pcm)}")
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(PCM16_SCALE)


def pcm_seconds(pcm: bytes, rate_hz: int) -> float:
    """How long 16-bit PCM lasts, of one channel."""
    return len(pcm) / PCM16_BYTES / rate_hz


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


class Intake:
    """Makes chunks `[6400]` of a recording's blocks, of whatever length, rate and channels.

    Args:
        rate_hz: sample rate of the blocks.

    Raises:
        AudioInputError: a rate that no recording has.
    """

    def __init__(self, rate_hz: int = SAMPLE_RATE_HZ) -> None:
        self._resampler = Resampler(rate_hz)
        self._chunker = Chunker()
        self._is_empty = True

    def chunks(self, audio: Iterable[AudioBlock]) -> Iterator[Samples]:
        """All chunks of a recording, each as soon as it is complete; see `push` and `finish`."""
        if isinstance(audio, str | bytes | np.ndarray):
            raise _not_blocks(audio)
        for block in audio:
            yield from self.push(block)
        yield from self.finish()

    async def chunks_async(
        self, audio: AsyncIterable[AudioBlock] | Iterable[AudioBlock]
    ) -> AsyncIterator[Samples]:
        """The same of a recording whose blocks may be waited for."""
        if not isinstance(audio, AsyncIterable):
            for chunk in self.chunks(audio):
                yield chunk
            return
        async for block in audio:
            for chunk in self.push(block):
                yield chunk
        for chunk in self.finish():
            yield chunk

    def push(self, block: AudioBlock) -> list[Samples]:
        """The chunks that another block completes; the rest waits.

        Raises:
            AudioInputError: it is of another type or shape, of another scale or not finite.
        """
        samples = _mono(block)
        self._is_empty = self._is_empty and not len(samples)
        return self._chunker.push(self._resampler.process(samples))

    def finish(self) -> list[Samples]:
        """The last chunk, padded, and the silence in which it can be answered.

        Nothing where no sample came.
        """
        if self._is_empty:
            return []
        chunks = self._chunker.push(self._resampler.flush())
        if (last := self._chunker.flush()) is not None:
            chunks.append(last)
        return chunks + [np.zeros(CHUNK_SAMPLES, np.float32)] * TRAILING_SILENCE_CHUNKS


def _mono(block: AudioBlock) -> Samples:
    """A block as float32 `[samples]` in [-1, 1]; channels are averaged."""
    array = np.asarray(block)
    if array.dtype != np.int16 and not np.issubdtype(array.dtype, np.floating):
        raise AudioInputError(
            f"a block of audio holds floats in [-1, 1] or int16, not {_describe(block)}"
        )
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] > MAX_CHANNELS):
        raise AudioInputError(
            f"a block of audio is [samples] or [samples, channels], not {list(array.shape)}"
        )
    if array.dtype == np.int16:
        array = array.astype(np.float32) / np.float32(PCM16_SCALE)
    elif array.size and np.abs(array).max() > MAX_LEVEL:
        raise AudioInputError(
            f"float audio lies in [-1, 1], and this holds {np.abs(array).max():g}: "
            f"16-bit samples have to be int16, or divided by {PCM16_SCALE}"
        )
    mono = array if array.ndim == 1 else array.mean(axis=1)
    return mono.astype(np.float32, copy=False)


def _describe(block: object) -> str:
    return str(block.dtype) if isinstance(block, np.ndarray) else type(block).__name__


def _not_blocks(audio: "str | bytes | npt.NDArray[Any]") -> AudioInputError:
    match audio:
        case str():
            advice = "read a file with stream_audio(path)"
        case bytes():
            advice = "make samples of 16-bit PCM with numpy.frombuffer(data, numpy.int16)"
        case _:
            advice = "put one array in a list"
    return AudioInputError(f"audio is an iterable of blocks, not {type(audio).__name__}: {advice}")


def read_audio(path: str | Path) -> Samples:
    """A whole file as mono float32 at 16 kHz; see `stream_audio`."""
    return np.concatenate(list(stream_audio(path)))


def stream_audio(path: str | Path) -> Iterator[Samples]:
    """A file as blocks of mono float32 at 16 kHz, about a second each.

    Any format that libsndfile or FFmpeg reads, at any rate; channels are averaged, or the first one
    taken where they cancel each other out. Of a file that was cut off or damaged on the way, what
    can be read is used, and a warning says so.

    Raises:
        AudioInputError: it cannot be read, holds no audio, only silence or broken samples.
    """
    path = Path(path)
    for mix in (_average, _first_channel):
        if _is_audible(path, mix):
            break
    else:
        raise AudioInputError(f"{path} holds only silence")
    for block in _decode(path, mix):
        if not np.isfinite(block).all():
            raise AudioInputError(f"{path} holds values that are not finite numbers")
        if np.abs(block).max(initial=0) > MAX_LEVEL:
            raise AudioInputError(f"{path} holds floats far outside [-1, 1]: its scale is wrong")
        yield block


def _average(channels: Samples) -> Samples:
    """One channel of `[channels, samples]`."""
    mixed: Samples = channels.mean(axis=0)
    return mixed


def _first_channel(channels: Samples) -> Samples:
    """Where two channels are each other's opposite, their average is silence."""
    first: Samples = channels[0]
    return first


def _is_audible(path: Path, mix: Mix) -> bool:
    num_samples = 0
    for block in _decode(path, mix):
        num_samples += len(block)
        if not (np.abs(block) < SILENCE_PEAK).all():
            return True
    if not num_samples:
        raise AudioInputError(f"{path} is empty")
    return False


def _decode(path: Path, mix: Mix) -> Iterator[Samples]:
    num_samples = 0
    try:
        for block in _decode_all(path, mix):
            num_samples += len(block)
            yield block
    except AudioInputError as error:
        if not num_samples:
            raise
        seconds = num_samples / SAMPLE_RATE_HZ
        logger.warning("%s: its first %.1f s are used", error, seconds)


def _decode_all(path: Path, mix: Mix) -> Iterator[Samples]:
    try:
        with path.open("rb") as file:
            try:
                sound = soundfile.SoundFile(file)
            except (soundfile.LibsndfileError, TypeError):
                # TypeError: the name ends in `.raw`, for which it wants to be told the rate.
                sound = None
            # One that was cut off has no length for libsndfile; some codecs in WAV it cannot seek.
            if sound is not None and sound.frames and sound.seekable():
                yield from _decode_with_libsndfile(sound, mix)
            else:
                has_no_length = sound is not None and not sound.frames
                yield from _decode_with_ffmpeg(path, mix, has_no_length=has_no_length)
    except AudioInputError as error:
        raise AudioInputError(f"{path}: {error}") from error
    except soundfile.LibsndfileError as error:
        raise AudioInputError(f"{path} is damaged: {_reason(error)}") from error
    except (av.error.InvalidDataError, av.error.EOFError, av.error.ArgumentError) as error:
        is_empty = path.is_file() and not path.stat().st_size
        what = "is empty" if is_empty else "is damaged, or holds no sound of a known format"
        raise AudioInputError(f"{path} {what}") from error
    except av.FFmpegError as error:
        raise AudioInputError(f"{path} cannot be read as audio: {error.strerror}") from error
    except (OSError, ValueError) as error:
        # ValueError: a name that no file can have, such as one with a zero byte.
        reason = getattr(error, "strerror", None) or error
        raise AudioInputError(f"{path} cannot be read: {reason}") from error


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")


def _decode_with_libsndfile(sound: soundfile.SoundFile, mix: Mix) -> Iterator[Samples]:
    with sound:
        resampler = Resampler(sound.samplerate)
        num_frames = max(1, round(sound.samplerate * _BLOCK_SECONDS))
        for block in sound.blocks(num_frames, dtype="float32", always_2d=True):
            yield resampler.process(mix(block.T))
        yield resampler.flush()


def _decode_with_ffmpeg(path: Path, mix: Mix, *, has_no_length: bool) -> Iterator[Samples]:
    # A recorder that crashed leaves a length of 0 in a WAV's header.
    options = {"ignore_length": "1"} if has_no_length else {}
    # Without `file:`, a colon in the name would end a protocol's.
    with av.open(f"file:{path}", metadata_errors="replace", options=options) as container:
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
                    yield resampler.process(
                        mix(converted.to_ndarray().astype(np.float32, copy=False))
                    )
            yield resampler.flush()


def _format_of(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name, frame.layout.name
