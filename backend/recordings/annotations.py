"""What people say of a recording: right, wrong, or a note, on a reply or on some of its chunks.

It is a member of the session file of its own: what was recorded stays as it is, and verifies.
"""

import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from backend.config import CHUNK_SECONDS

ANNOTATIONS = "annotations.json"
MAX_ANNOTATIONS = 2000
MAX_ANNOTATIONS_BYTES = 8 * 1024**2
MAX_NOTE_CHARACTERS = 2000

_Place = Annotated[int, Field(ge=0, lt=2**31)]


class Annotation(BaseModel):
    """What is said of one reply, or of a few chunks: a verdict, a note, or both."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    turn: _Place | None = None
    """The reply that it is about; None where it is about chunks."""
    chunk: _Place | None = None
    """The first chunk that it is about."""
    last_chunk: _Place | None = None
    """The last one; absent where it is about one chunk alone."""
    verdict: Literal["right", "wrong"] | None = None
    note: Annotated[str, Field(max_length=MAX_NOTE_CHARACTERS)] = ""

    @model_validator(mode="after")
    def _is_about_something(self) -> Self:
        if (self.turn is None) == (self.chunk is None):
            raise ValueError("it is about a turn, or about a chunk and what follows: one of both")
        if self.last_chunk is not None and (self.chunk is None or self.last_chunk < self.chunk):
            raise ValueError("last_chunk comes after chunk")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing: then it takes away what was said before."""
        return self.verdict is None and not self.note.strip()

    @property
    def subject(self) -> tuple[int | None, int | None, int | None]:
        """What it is about; of each subject there is one annotation at most."""
        last = self.chunk if self.last_chunk is None else self.last_chunk
        return self.turn, self.chunk, last

    @property
    def span_seconds(self) -> tuple[float, float] | None:
        """Of chunks: from where to where in the microphone's audio."""
        _, first, last = self.subject
        if first is None or last is None:
            return None
        return round(first * CHUNK_SECONDS, 3), round((last + 1) * CHUNK_SECONDS, 3)

    def is_about(self, chunk: int, turn: int | None) -> bool:
        """Whether it is about this chunk, or the reply that it was answered with, if any."""
        if self.turn is not None:
            return self.turn == turn
        _, first, last = self.subject
        return first is not None and last is not None and first <= chunk <= last

    def is_within(self, num_turns: int, num_chunks: int) -> bool:
        """Whether there is what it is about."""
        turn, _, last = self.subject
        return turn < num_turns if turn is not None else (last or 0) < num_chunks


Annotations = tuple[Annotation, ...]
ANNOTATIONS_READER: TypeAdapter[Annotations] = TypeAdapter(
    Annotated[Annotations, Field(max_length=MAX_ANNOTATIONS)]
)


def annotated(annotations: Sequence[Annotation], new: Annotation) -> Annotations:
    """The same with `new`, which takes the place of what was said of its subject."""
    others = [each for each in annotations if each.subject != new.subject]
    said = others if new.is_empty else [*others, new]
    return tuple(sorted(said, key=lambda each: tuple(-1 if n is None else n for n in each.subject)))


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
