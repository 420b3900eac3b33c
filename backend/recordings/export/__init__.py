"""Make of a recording what other programs open: a page, captions, text, sound. Needs no model."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile

from backend.errors import SessionFileError
from backend.recordings import ExportFormat, StudyFormat
from backend.recordings.export.figure import write_figure
from backend.recordings.export.page import write_page
from backend.recordings.export.sound import write_wav
from backend.recordings.export.text import markdown, srt, vtt
from backend.recordings.reader import SessionFile
from backend.recordings.session_file import chunk_rows, write_table
from backend.recordings.transcript import read_transcript, transcript_json


def export(file: SessionFile, wanted: ExportFormat | StudyFormat, output: Path) -> None:
    """Write `file` as what is wanted to `output`: whole, or not at all.

    Raises:
        SettingsError: a package is missing that this needs and others do not.
        SessionFileError: it cannot be written, or has changed since it was opened; names `output`
            only where that is the recording itself, as those who ask over the network need not
            know where files are.
    """
    try:
        if _is_within(output, file.path):
            raise SessionFileError(f"{output} is the recording itself: name another file")
        with _made_whole(output) as path:
            _write(file, wanted, path)
    except soundfile.LibsndfileError as error:
        raise SessionFileError(_not_written(file, wanted, error.error_string)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SessionFileError(_not_written(file, wanted, reason)) from error


def _write(file: SessionFile, wanted: ExportFormat | StudyFormat, output: Path) -> None:
    match wanted:
        case StudyFormat.SVG | StudyFormat.PDF | StudyFormat.PNG:
            write_figure(file, output, wanted)
        case StudyFormat() | ExportFormat.CSV:
            write_table(chunk_rows(read_transcript(file)), output, wanted)
        case ExportFormat.WAV:
            write_wav(file, output)
        case ExportFormat.HTML:
            write_page(file, output)
        case ExportFormat.VTT:
            output.write_text(vtt(read_transcript(file)), encoding="utf-8")
        case ExportFormat.SRT:
            output.write_text(srt(read_transcript(file)), encoding="utf-8")
        case ExportFormat.JSON:
            output.write_bytes(transcript_json(file))
        case ExportFormat.MARKDOWN:
            output.write_text(markdown(file, read_transcript(file)), encoding="utf-8")


@contextmanager
def _made_whole(output: Path) -> Iterator[Path]:
    """Where to write what becomes `output` when the block has ended well."""
    if output.exists() and not output.is_file():
        # A device or a pipe, whose place no file is to take.
        yield output
        return
    whole = output.resolve()
    part = whole.with_name(f"{whole.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, whole)
    finally:
        part.unlink(missing_ok=True)


def _is_within(output: Path, recording: Path) -> bool:
    """Whether to write to `output` would overwrite a recording, packed or a folder."""
    whole, resolved = recording.resolve(), output.resolve()
    if whole in (resolved, *resolved.parents):
        return True
    # The same file may have two names.
    return output.exists() and output.samefile(recording)


def _not_written(file: SessionFile, wanted: ExportFormat | StudyFormat, reason: str) -> str:
    return f"{file.name}: its export as {wanted} cannot be written: {reason}"
