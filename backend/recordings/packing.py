"""Pack a recording into one file: a folder that is complete, or what is readable of another one."""

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
from backend.recordings.reader import EVENTS, MANIFEST, MICROPHONE, SessionFile, reply_name
from backend.recordings.records import EndRecord, Manifest

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
            yield Track(reply_name(turn, "").removesuffix("."), blocks)
