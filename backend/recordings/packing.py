"""Pack a recording into one file: a folder that is complete, or what is readable of another one.

And let a packed one say something else of itself.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from backend.config import SAMPLE_RATE_HZ, SPEECH_RATE_HZ
from backend.errors import SessionFileError
from backend.recordings.reader import (
    ANNOTATIONS,
    EVENTS,
    MANIFEST,
    MICROPHONE,
    SessionFile,
    reply_track,
)
from backend.recordings.records import ANNOTATIONS_READER, Annotations, EndRecord, Manifest

DEFLATE_LEVEL = 6

Blocks = Iterable[npt.NDArray[np.float32] | npt.NDArray[np.int16]]


@dataclass(frozen=True, slots=True)
class Track:
    """The sound of one side, or of one reply."""

    name: str
    """Of the member, without the suffix."""
    blocks: Blocks

    @property
    def rate_hz(self) -> int:
        """Samples a second."""
        return SAMPLE_RATE_HZ if self.name == MICROPHONE else SPEECH_RATE_HZ


def pack(
    output: BinaryIO, manifest: Manifest, events: Path, tracks: Iterable[Track], folder: Path
) -> None:
    """Write a complete recording to `output`.

    Args:
        output: the file, open for writing.
        manifest: what holds for the whole conversation.
        events: the file of its records.
        tracks: its sound; those without any are left out, as FLAC knows no empty ones.
        folder: where tracks are encoded.

    Raises:
        OSError, soundfile.LibsndfileError, zipfile.LargeZipFile: it cannot be written.
    """
    deflated = {"compress_type": zipfile.ZIP_DEFLATED, "compresslevel": DEFLATE_LEVEL}
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(MANIFEST, manifest.model_dump_json(indent=1), **deflated)
        archive.write(events, EVENTS, **deflated)
        flac = folder / "track.flac"
        for track in tracks:
            if _encode(track, flac):
                archive.write(flac, f"{track.name}.flac")
            flac.unlink()


def _encode(track: Track, flac: Path) -> int:
    """Returns how many samples there are."""
    with soundfile.SoundFile(flac, "w", track.rate_hz, 1, "PCM_16", format="FLAC") as sound:
        for block in track.blocks:
            sound.write(block)
        return int(sound.frames)


def pack_copy(file: SessionFile, output: Path) -> None:
    """Write all that can be read of `file` as a complete recording to `output`.

    Raises:
        SessionFileError: it cannot be written, or has changed since it was opened.
    """
    try:
        with (
            tempfile.TemporaryDirectory(dir=output.parent) as name,
            output.open("wb") as packed,
            closing(_readable_tracks(file)) as tracks,
        ):
            folder = Path(name)
            events = folder / EVENTS
            _write_events(file, events)
            pack(packed, file.manifest, events, tracks, folder)
    except (OSError, soundfile.LibsndfileError, zipfile.LargeZipFile) as error:
        # Some name the file that they were to write.
        reason = getattr(error, "strerror", None) or "no file can be written"
        raise SessionFileError(f"{file.name} cannot be packed: {reason}") from error


def _write_events(file: SessionFile, path: Path) -> None:
    at = 0.0
    with path.open("wb") as events:
        for record in file.records():
            at = record.at
            if not isinstance(record, EndRecord):
                events.write(record.model_dump_json(exclude_none=True).encode() + b"\n")
        end = EndRecord(at=at, chunks=file.num_chunks)
        events.write(end.model_dump_json().encode() + b"\n")


def _readable_tracks(file: SessionFile) -> Generator[Track]:
    """To be closed, for where not all is written: each has a file open."""
    with closing(file.chunks()) as chunks:
        yield Track(MICROPHONE, chunks)
    for turn in file.reply_turns:
        with closing(file.reply_blocks(turn)) as blocks:
            yield Track(reply_track(turn), blocks)


def write_annotations(path: Path, annotations: Annotations, part: Path) -> None:
    """Let a packed session file say this, and nothing else, of itself.

    Args:
        path: the file; it is replaced when the new one is whole.
        annotations: all that is said of it.
        part: where the new one is written until then.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read or written.
    """
    try:
        # Before anything is in it: others on this machine may not read recordings.
        part.touch(0o600, exist_ok=False)
        shutil.copymode(path, part)
        with (
            zipfile.ZipFile(path) as before,
            zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as after,
        ):
            for info in before.infolist():
                if info.filename != ANNOTATIONS:
                    # With the name, the time and the kind of compression that it has.
                    with before.open(info) as member, after.open(info, mode="w") as copy:
                        shutil.copyfileobj(member, copy, 1024**2)
            if annotations:
                after.writestr(ANNOTATIONS, ANNOTATIONS_READER.dump_json(annotations, indent=1))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
