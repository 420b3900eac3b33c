"""Read a session file, packed or still a folder, and trust nothing in it.

Nothing is ever extracted: members are read in place, each up to a limit, and only those whose
names belong to the format.
"""

import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import av
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from backend.audio import PCM16_SCALE, Samples
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ, SPEECH_RATE_HZ
from backend.errors import SessionFileError
from backend.recordings.records import (
    ANNOTATIONS_READER,
    FORMAT,
    MAX_SET_REPLY_TOKENS,
    RECORD_READER,
    VERSIONS,
    Annotations,
    DecisionRecord,
    EndRecord,
    Manifest,
    Record,
    SettingsRecord,
    TokenRecord,
    TypedRecord,
)

MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
ANNOTATIONS = "annotations.json"
MICROPHONE = "microphone"
REPLIES = "replies"
LIVE_SUFFIX = ".live"
"""Of the folder that a recording is until it is packed."""
LOCK = "lock"
"""In that folder: held by the process that records it or packs it, and by none once that ended."""

MAX_HOURS = 12
MAX_CHUNKS = int(MAX_HOURS * 3600 / CHUNK_SECONDS)
MAX_MANIFEST_BYTES = 256 * 1024
MAX_LINE_BYTES = 128 * 1024
MAX_EVENTS_BYTES = 96 * 1024**2
"""12 hours of decisions take 24 MB, and 20 tokens a second all the while 73 MB more."""
MAX_ANNOTATIONS_BYTES = 8 * 1024**2
MAX_AUDIO_BYTES = MAX_HOURS * 3600 * SPEECH_RATE_HZ * 2
MAX_BUNDLE_BYTES = 2 * MAX_AUDIO_BYTES
MAX_REPLY_TRACKS = 20_000
MAX_REPLY_SECONDS = 3600
"""Of one spoken reply, which is held in memory: minutes of silence fit into a few bytes of FLAC."""
MAX_REPLY_TOKENS = MAX_SET_REPLY_TOKENS + 16
"""And the control tokens around them; a reply's are held in memory where it is repeated."""
MAX_DIRECTORY_BYTES = 8 * 1024**2

_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_LOCATOR_SIGNATURE = b"PK\x06\x07"
_ZIP64_LOCATOR_BYTES = 20
_REPLY_NAME = re.compile(rf"{REPLIES}/(\d{{6}})\.(flac|pcm)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checked:
    """What going through a whole packed file found: who opens that very file again need not."""

    is_complete: bool
    num_chunks: int


def reply_track(turn: int) -> str:
    """The member that holds a spoken reply, without its suffix."""
    return f"{REPLIES}/{turn:06d}"


class SessionFile:
    """An open session file. Use it in a `with` block, or `close` it.

    Args:
        path: a packed recording, or the folder of one that goes on or was cut off.
        name: what errors call it; its path where none is given.
        checked: of this very file, packed and not changed since; None goes through all of it.

    Raises:
        SessionFileError: it is none, is of another version, or does not agree with itself; says
            what, in a sentence that names the file.
    """

    def __init__(
        self, path: str | Path, name: str | None = None, checked: Checked | None = None
    ) -> None:
        self.path = Path(path)
        self.name = str(path) if name is None else name
        with _named(self.name):
            self._members = _open_members(self.path)
        try:
            with _named(self.name):
                self.manifest = self._read_manifest()
                self.reply_turns = self._find_replies()
                self.annotations = self._read_annotations()
                """What people say of it."""
                self.checked = checked or self._check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SessionFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._members.close()

    @property
    def is_complete(self) -> bool:
        """Whether its recording came to its end, and was not cut off."""
        return self.checked.is_complete

    @property
    def num_chunks(self) -> int:
        """Chunks that were decided on and have their audio."""
        return self.checked.num_chunks

    @property
    def seconds(self) -> float:
        """How long the microphone was heard."""
        return self.num_chunks * CHUNK_SECONDS

    @property
    def num_bytes(self) -> int:
        """What it takes up."""
        return size_of(self.path)

    def records(self) -> Iterator[Record]:
        """What happened, in order; of a recording that was cut off, what has its audio."""
        with _named(self.name):
            for record in self._read_records():
                if isinstance(record, DecisionRecord) and record.chunk >= self.num_chunks:
                    return
                yield record

    def chunks(self) -> Generator[Samples]:
        """The microphone's audio `[6400]`, by chunk, as the model heard it; close it as below."""
        if not self.num_chunks:
            return
        with _named(self.name), self._open_audio(MICROPHONE, SAMPLE_RATE_HZ) as blocks:
            for number, block in enumerate(blocks):
                if number >= self.num_chunks:
                    return
                yield block

    def reply_audio(self, turn: int) -> Samples:
        """A spoken reply `[n]` at 24 kHz, whole."""
        return np.concatenate([np.empty(0, np.float32), *self.reply_blocks(turn)])

    def reply_blocks(self, turn: int) -> Generator[Samples]:
        """A spoken reply at 24 kHz, in blocks `[n]`; close it where not all of it is taken."""
        num_samples = 0
        with (
            _named(self.name),
            self._open_audio(reply_track(turn), SPEECH_RATE_HZ) as blocks,
        ):
            for block in blocks:
                num_samples += len(block)
                if num_samples > MAX_REPLY_SECONDS * SPEECH_RATE_HZ:
                    raise SessionFileError(f"the audio of reply {turn} is longer than any")
                yield block

    def reply_seconds(self, turn: int) -> float:
        """How long a spoken reply says that it is; its sound is not decoded."""
        with _named(self.name):
            num_samples = self._num_samples(reply_track(turn))
            if num_samples > MAX_REPLY_SECONDS * SPEECH_RATE_HZ:
                raise SessionFileError(f"the audio of reply {turn} is longer than any")
        return num_samples / SPEECH_RATE_HZ

    def _read_manifest(self) -> Manifest:
        content = self._read_whole(MANIFEST, MAX_MANIFEST_BYTES)
        try:
            stated = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise SessionFileError(f"its {MANIFEST} is not JSON") from error
        if not isinstance(stated, dict) or stated.get("format") != FORMAT:
            raise SessionFileError("it is no recorded conversation")
        if (version := stated.get("version")) not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise SessionFileError(
                f"it is of version {version!r}; this program reads versions {known}"
            )
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            raise SessionFileError(f"its {MANIFEST} is impossible: {_first(error)}") from error

    def _read_annotations(self) -> Annotations:
        if ANNOTATIONS not in self._members.names:
            return ()
        content = self._read_whole(ANNOTATIONS, MAX_ANNOTATIONS_BYTES)
        try:
            return ANNOTATIONS_READER.validate_json(content)
        except ValidationError as error:
            raise SessionFileError(f"its {ANNOTATIONS} is impossible: {_first(error)}") from error

    def _read_whole(self, name: str, max_bytes: int) -> bytes:
        with self._members.open(name) as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise SessionFileError(f"its {name} is larger than any")
        return content

    def _find_replies(self) -> list[int]:
        found = [_REPLY_NAME.fullmatch(name) for name in self._members.names]
        return sorted(int(match[1]) for match in found if match)

    def _check(self) -> Checked:
        """Go through everything once, so that nothing unexpected is found later."""
        self._members.check_sums()
        num_decisions, num_turns, num_asides, is_speaking = 0, 0, 0, False
        num_tokens = 0
        end: EndRecord | None = None
        for number, record in enumerate(self._read_records(), start=1):
            if end is not None:
                raise SessionFileError(f"its {EVENTS} goes on after its end")
            if isinstance(record, DecisionRecord):
                if record.chunk != num_decisions or is_speaking:
                    raise SessionFileError(
                        f"line {number} of its {EVENTS} decides on chunk {record.chunk}, where "
                        + ("a reply goes on" if is_speaking else f"{num_decisions} is next")
                    )
                num_decisions += 1
                num_turns += record.speak
                num_tokens = 0
                is_speaking = record.speak
            elif isinstance(record, TokenRecord):
                if not is_speaking or record.turn != num_turns - 1:
                    raise SessionFileError(
                        f"line {number} of its {EVENTS} continues reply {record.turn}, which is "
                        "not in progress"
                    )
                num_tokens += 1
                if num_tokens > MAX_REPLY_TOKENS:
                    raise SessionFileError(f"its reply {record.turn} has more tokens than any")
                is_speaking = record.status is None
            elif isinstance(record, SettingsRecord | TypedRecord):
                # A line of them is short, and what is made of it is not.
                num_asides += 1
                if num_asides > MAX_CHUNKS:
                    raise SessionFileError(
                        f"its {EVENTS} changes the settings, or holds typed texts, more often than "
                        f"there are chunks in {MAX_HOURS} hours"
                    )
            elif isinstance(record, EndRecord):
                end = record
        # Where nothing was heard there is no track: FLAC knows no empty ones.
        is_heard = num_decisions > 0 or (end is not None and end.chunks > 0)
        num_heard = self._count_chunks() if is_heard else 0
        if end is None and self._members.is_packed:
            raise SessionFileError(f"its {EVENTS} ends early")
        if end is not None and not num_decisions <= end.chunks == num_heard:
            raise SessionFileError(
                f"{num_decisions} of {end.chunks} chunks were decided on, and its audio holds "
                f"{num_heard}"
            )
        if not self._members.is_packed:
            # The sound of a reply may have been written before what it belongs to.
            self.reply_turns = [turn for turn in self.reply_turns if turn < num_turns]
        for turn in self.reply_turns:
            if turn >= num_turns:
                raise SessionFileError(f"it holds the audio of reply {turn}, which there is not")
        for annotation in self.annotations:
            if not annotation.is_within(num_turns, num_decisions):
                raise SessionFileError(
                    f"its {ANNOTATIONS} is about a reply, or a chunk, that there is not"
                )
        return Checked(is_complete=end is not None, num_chunks=min(num_decisions, num_heard))

    def _count_chunks(self) -> int:
        with self._open_audio(MICROPHONE, SAMPLE_RATE_HZ) as blocks:
            num_chunks = 0
            for _ in blocks:
                num_chunks += 1
                if num_chunks > MAX_CHUNKS:
                    raise SessionFileError(f"its audio is longer than {MAX_HOURS} hours")
        return num_chunks

    def _read_records(self) -> Iterator[Record]:
        with self._members.open(EVENTS) as file:
            number = num_bytes = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                num_bytes += len(line)
                if len(line) > MAX_LINE_BYTES:
                    raise SessionFileError(f"line {number} of its {EVENTS} is longer than any")
                if num_bytes > MAX_EVENTS_BYTES:
                    raise SessionFileError(f"its {EVENTS} is larger than any")
                if not line.endswith(b"\n") and not self._members.is_packed:
                    # Cut off while it was written.
                    return
                try:
                    yield RECORD_READER.validate_json(line)
                except ValidationError as error:
                    raise SessionFileError(
                        f"line {number} of its {EVENTS} is impossible: {_first(error)}"
                    ) from error

    @contextmanager
    def _open_audio(self, name: str, rate_hz: int) -> Iterator[Iterator[Samples]]:
        """Blocks of a chunk's length of a track; the microphone's are whole."""
        is_whole = name == MICROPHONE
        if not self._members.is_packed:
            with self._members.open(f"{name}.pcm") as file:
                yield _pcm_blocks(file, is_whole=is_whole)
            return
        with self._open_flac(name, rate_hz) as container:
            yield _flac_blocks(container, name, is_whole=is_whole)

    def _num_samples(self, name: str) -> int:
        """Of a reply's track, by its header or, where it has none, by its size."""
        if not self._members.is_packed:
            with self._members.open(f"{name}.pcm") as file:
                return file.seek(0, os.SEEK_END) // 2
        with self._open_flac(name, SPEECH_RATE_HZ) as container:
            stated: int | None = container.streams.audio[0].duration
            if stated is None:
                raise SessionFileError(f"its {name}.flac does not say how long it is")
            return stated

    @contextmanager
    def _open_flac(self, name: str, rate_hz: int) -> Iterator[Any]:
        with self._members.open(f"{name}.flac") as file:
            try:
                with av.open(_ForwardReader(file), format="flac") as container:
                    codec = container.streams.audio[0].codec_context
                    if codec.format is None:
                        raise SessionFileError(f"its {name}.flac is damaged: it is no FLAC")
                    found = (codec.sample_rate, codec.channels, codec.format.name)
                    if found != (rate_hz, 1, "s16"):
                        raise SessionFileError(
                            f"its {name}.flac must be of {rate_hz} Hz, 1 channel and 16 bits, not "
                            f"of {found[0]} Hz, {found[1]} channels and {found[2]}"
                        )
                    yield container
            except av.FFmpegError as error:
                raise SessionFileError(f"its {name}.flac is damaged: {error.strerror}") from error


class _ForwardReader:
    """A file to be read once, in order: to go back in a member means to read it all again."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read


def _flac_blocks(container: Any, name: str, *, is_whole: bool) -> Iterator[Samples]:
    rest = np.empty(0, np.int16)
    for frame in container.decode(audio=0):
        steps = np.concatenate([rest, frame.to_ndarray()[0]])
        end = len(steps) - len(steps) % CHUNK_SAMPLES
        for start in range(0, end, CHUNK_SAMPLES):
            yield _to_float(steps[start : start + CHUNK_SAMPLES])
        rest = steps[end:]
    if len(rest) and is_whole:
        raise SessionFileError(f"its {name}.flac does not end with a whole chunk")
    if len(rest):
        yield _to_float(rest)


def _pcm_blocks(file: BinaryIO, *, is_whole: bool) -> Iterator[Samples]:
    while block := file.read(CHUNK_SAMPLES * 2):
        # A track that is still written may end within a chunk, or within a sample.
        if is_whole and len(block) < CHUNK_SAMPLES * 2:
            return
        yield _to_float(np.frombuffer(block[: len(block) // 2 * 2], "<i2"))


def _to_float(steps: npt.NDArray[np.int16]) -> Samples:
    samples: Samples = steps.astype(np.float32) / np.float32(PCM16_SCALE)
    return samples


# Members: the same for a packed file and for a folder


class _Members(Protocol):
    is_packed: bool
    names: list[str]

    def open(self, name: str) -> BinaryIO: ...

    def check_sums(self) -> None: ...

    def close(self) -> None: ...


class _PackedMembers:
    """The members of a zip file."""

    is_packed = True

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            _check_directory(self._file)
            self._archive = zipfile.ZipFile(self._file)
            self._check_members()
        except BaseException:
            self._file.close()
            raise
        self.names = self._archive.namelist()

    def check_sums(self) -> None:
        """Read every member to its end, where zipfile compares its sum."""
        for name in self.names:
            with self._archive.open(name) as member:
                while member.read(1024**2):
                    pass

    def open(self, name: str) -> BinaryIO:
        try:
            return cast(BinaryIO, self._archive.open(name))
        except KeyError as error:
            raise SessionFileError(f"it holds no {name}") from error

    def close(self) -> None:
        self._archive.close()
        self._file.close()

    def _check_members(self) -> None:
        limits = {
            MANIFEST: MAX_MANIFEST_BYTES,
            EVENTS: MAX_EVENTS_BYTES,
            ANNOTATIONS: MAX_ANNOTATIONS_BYTES,
            f"{MICROPHONE}.flac": MAX_AUDIO_BYTES,
        }
        seen: set[str] = set()
        num_bytes = 0
        for info in self._archive.infolist():
            name = info.filename
            match = _REPLY_NAME.fullmatch(name)
            if name not in limits and (match is None or match[2] != "flac"):
                raise SessionFileError(f"it holds {name[:100]!r}, which does not belong there")
            if name in seen:
                raise SessionFileError(f"it holds {name} twice")
            seen.add(name)
            if info.flag_bits & 1:
                raise SessionFileError(f"its {name} is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise SessionFileError(f"its {name} is compressed in an unknown way")
            if info.file_size > limits.get(name, MAX_AUDIO_BYTES):
                raise SessionFileError(f"its {name} is larger than any")
            num_bytes += info.file_size
        if num_bytes > MAX_BUNDLE_BYTES:
            raise SessionFileError("what it holds is larger than any")
        if len(seen) > MAX_REPLY_TRACKS + len(limits):
            raise SessionFileError("it holds more files than any")


class _FolderMembers:
    """The members of a folder that a recording is written to."""

    is_packed = False

    def __init__(self, path: Path) -> None:
        self._path = path
        replies = path / REPLIES
        self.names = [
            f"{REPLIES}/{name}" for name in (os.listdir(replies) if replies.is_dir() else [])
        ]

    def open(self, name: str) -> BinaryIO:
        path = self._path / name
        # A link, or a pipe, is not what a recorder writes.
        if not path.exists() or not stat.S_ISREG(path.lstat().st_mode):
            raise SessionFileError(f"it holds no file {name}")
        return path.open("rb")

    def check_sums(self) -> None:
        """There are none."""

    def close(self) -> None:
        """Nothing is held open."""


def _open_members(path: Path) -> _Members:
    if path.is_dir():
        return _FolderMembers(path)
    live = path.with_name(path.name + LIVE_SUFFIX)
    if not path.exists() and live.is_dir():
        raise SessionFileError(f"it is not packed yet; what was recorded so far is in {live}")
    return _PackedMembers(path)


def _check_directory(file: BinaryIO) -> None:
    """Refuse a directory of members that is too large to be read into memory."""
    size = file.seek(0, os.SEEK_END)
    tail_bytes = min(size, _ZIP_END.size + _ZIP64_LOCATOR_BYTES)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    if tail[-_ZIP_END.size :][:4] != _ZIP_END_SIGNATURE:
        raise SessionFileError("it is cut off, or no recorded conversation")
    *_, directory_bytes, _, _ = _ZIP_END.unpack(tail[-_ZIP_END.size :])
    if directory_bytes > MAX_DIRECTORY_BYTES or tail[:4] == _ZIP64_LOCATOR_SIGNATURE:
        raise SessionFileError("it holds more files than any")
    file.seek(0)


def size_of(path: Path) -> int:
    """Bytes in a file, or in all files below a folder; 0 where there is nothing."""
    return sum(_sizes(path))


def _sizes(path: Path) -> Iterator[int]:
    try:
        if not path.is_dir():
            yield path.stat().st_size
            return
        for entry in os.scandir(path):
            yield from _sizes(Path(entry.path))
    except (FileNotFoundError, NotADirectoryError):
        # There is none, or not any more.
        return


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let every error name the file."""
    try:
        yield
    except SessionFileError as error:
        message = str(error)
        raise SessionFileError(
            message if message.startswith(f"{name}: ") else f"{name}: {message}"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        reason = str(error) or "it ends early"
        raise SessionFileError(f"{name}: it is damaged: {reason}") from error
    except (OSError, ValueError) as error:
        # ValueError: a name that no file can have.
        reason = getattr(error, "strerror", None) or str(error)
        raise SessionFileError(f"{name} cannot be read: {reason}") from error


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    return f"{place}: {found['msg']}" if place else found["msg"]
