"""Make of a recording what other programs open: a page, captions, text, sound. Needs no model."""

from enum import StrEnum
from pathlib import Path

import soundfile

from backend.errors import SessionFileError
from backend.export.captions import srt, vtt
from backend.export.page import page
from backend.export.sound import write_wav
from backend.export.text import markdown
from backend.session_file import SessionFile, read_story


class ExportFormat(StrEnum):
    """What a recording can be made into."""

    HTML = "html"
    """One page that holds everything and needs no network."""
    VTT = "vtt"
    SRT = "srt"
    MARKDOWN = "markdown"
    WAV = "wav"
    """Stereo: the microphone left, spoken replies right."""

    @property
    def suffix(self) -> str:
        """How such a file's name ends."""
        return ".md" if self is ExportFormat.MARKDOWN else f".{self.value}"


def export(file: SessionFile, wanted: ExportFormat, output: Path) -> None:
    """Write `file` as what is wanted to `output`.

    Raises:
        SessionFileError: it cannot be written, or has changed since it was opened.
    """
    try:
        match wanted:
            case ExportFormat.WAV:
                write_wav(file, output)
            case ExportFormat.HTML:
                output.write_text(page(file, read_story(file)), encoding="utf-8")
            case ExportFormat.VTT:
                output.write_text(vtt(read_story(file)), encoding="utf-8")
            case ExportFormat.SRT:
                output.write_text(srt(read_story(file)), encoding="utf-8")
            case ExportFormat.MARKDOWN:
                output.write_text(markdown(file, read_story(file)), encoding="utf-8")
    except (OSError, ValueError, soundfile.LibsndfileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SessionFileError(f"{output} cannot be written: {reason}") from error
