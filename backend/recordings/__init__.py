"""Recordings of conversations, and what they can be made into."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """What a recording can be made into."""

    HTML = "html"
    """One page that holds everything and needs no network."""
    VTT = "vtt"
    SRT = "srt"
    MARKDOWN = "markdown"
    JSON = "json"
    """All that is known of it, decision by decision."""
    CSV = "csv"
    """A row a chunk, with the reply to it and what people say of both."""
    WAV = "wav"
    """Stereo: the microphone left, spoken replies right."""

    @property
    def suffix(self) -> str:
        """How such a file's name ends."""
        return ".md" if self is ExportFormat.MARKDOWN else f".{self.value}"


class StudyFormat(StrEnum):
    """What the command line makes of a recording besides: figures and tables, for papers."""

    SVG = "svg"
    PDF = "pdf"
    PNG = "png"
    PARQUET = "parquet"
    """A row a chunk, as in CSV."""
    JSONL = "jsonl"
    """The same, an object a line."""

    @property
    def suffix(self) -> str:
        """How such a file's name ends."""
        return f".{self.value}"
