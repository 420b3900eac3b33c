"""Pack what is readable of a recording: of one that goes on, or was cut off, what there is."""

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import soundfile

from backend.audio import Samples
from backend.config import SAMPLE_RATE_HZ
from backend.errors import SessionFileError
from backend.recordings.reader import EVENTS, MANIFEST, MICROPHONE, SessionFile, reply_name
from backend.recordings.records import REPLY_RATE_HZ, EndRecord


def pack_copy(file: SessionFile, output: Path) -> None:
    """Write all that can be read of `file` as a complete recording to `output`.

    Raises:
        SessionFileError: it cannot be written, or has changed since it was opened.
    """
    try:
        with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
            manifest = file.manifest.model_dump_json(indent=1)
            archive.writestr(MANIFEST, manifest, zipfile.ZIP_DEFLATED)
            with tempfile.TemporaryDirectory(dir=output.parent) as folder:
                part = Path(folder) / "part"
                _write_events(file, part)
                archive.write(part, EVENTS, zipfile.ZIP_DEFLATED)
                if file.num_chunks:
                    _write_flac(file.chunks(), part, SAMPLE_RATE_HZ)
                    archive.write(part, f"{MICROPHONE}.flac")
                for turn in file.reply_turns:
                    if len(samples := file.reply_audio(turn)):
                        _write_flac(iter([samples]), part, REPLY_RATE_HZ)
                        archive.write(part, reply_name(turn, "flac"))
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


def _write_flac(blocks: Iterator[Samples], path: Path, rate_hz: int) -> None:
    with soundfile.SoundFile(path, "w", rate_hz, 1, "PCM_16", format="FLAC") as sound:
        for block in blocks:
            sound.write(block)
