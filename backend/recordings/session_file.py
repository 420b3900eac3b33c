"""A session file in pandas: `session_file.read("seven.aisession").chunks`.

pandas is imported when a file is read; Gradio brings it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.audio import Samples
from backend.recordings.reader import SessionFile
from backend.recordings.tables import read_tables

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class SessionFrames:
    """A recording as frames; docs/evaluation.md names their columns."""

    manifest: dict[str, Any]
    """What holds for all of it: checkpoint, prompt, seed, drawing."""
    chunks: "DataFrame"
    replies: "DataFrame"
    tokens: "DataFrame"
    words: "DataFrame"
    events: "DataFrame"
    annotations: "DataFrame"
    microphone: Samples
    """float32 `[n]` at 16 kHz."""


def read(path: str | Path) -> SessionFrames:
    """Everything in a session file, packed or still a folder.

    Raises:
        SessionFileError: it is none, or does not agree with itself.
    """
    from pandas import DataFrame

    with SessionFile(path) as file:
        tables = read_tables(file)
        sound = [np.empty(0, np.float32), *file.chunks()]
        chunks, replies, tokens, words, events, annotations = map(DataFrame, tables)
        manifest = file.manifest.model_dump(mode="json")
    return SessionFrames(
        manifest, chunks, replies, tokens, words, events, annotations, np.concatenate(sound)
    )
