"""Tell checkpoints apart by what their files hold. Needs no torch, for readers of recordings."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import CheckpointError
from backend.model.layout import (
    AUDIO_TOWER_CONFIG,
    AUDIO_TOWERS,
    CONFIG,
    LANGUAGE_MODEL_CONFIG,
    SHARDS,
    TOKENIZER,
)

if TYPE_CHECKING:
    from backend.model.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A file that decides what a checkpoint says, and what tells one state of it from another."""

    name: str
    """Within the checkpoint's folder, with slashes."""
    num_bytes: int
    modified_ns: int
    inode: int


def files_in(folder: Path) -> tuple[LoadedFile, ...]:
    """The files that decide what a checkpoint says, as they are now, by name.

    Raises:
        CheckpointError: one of them cannot be looked at.
    """
    stated = [LANGUAGE_MODEL_CONFIG, CONFIG, TOKENIZER, AUDIO_TOWER_CONFIG, *AUDIO_TOWERS]
    try:
        found = [folder / name for name in stated if (folder / name).is_file()]
        return tuple(_loaded_file(folder, path) for path in sorted([*found, *folder.glob(SHARDS)]))
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error


def _loaded_file(folder: Path, path: Path) -> LoadedFile:
    status = path.stat()
    return LoadedFile(
        name=path.relative_to(folder).as_posix(),
        num_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        inode=status.st_ino,
    )


def fingerprint(checkpoint: "Checkpoint") -> str:
    """SHA-256, in hex, over the names and contents of the files that decide what it says.

    The first time takes seconds for a large checkpoint, which is why it is not done when one is
    loaded: it is right all the same, as files that were changed since then are refused.

    Raises:
        CheckpointError: it has no files, they cannot be read any more, or they are no longer those
            that it was loaded from.
    """
    if checkpoint.folder is None:
        raise CheckpointError(f"the checkpoint {checkpoint.name} has no files to tell it by")
    digest = hashlib.sha256()
    _require_unchanged(checkpoint, checkpoint.folder)
    try:
        for file in checkpoint.files:
            content = _digest_of(checkpoint.folder, file)
            digest.update(f"{file.name} {content}\n".encode())
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error
    # Reading took a while.
    _require_unchanged(checkpoint, checkpoint.folder)
    return digest.hexdigest()


def _require_unchanged(checkpoint: "Checkpoint", folder: Path) -> None:
    if changed := set(files_in(folder)) ^ set(checkpoint.files):
        name = min(file.name for file in changed)
        raise CheckpointError(
            f"{folder / name} was changed after {checkpoint.name} had been loaded, which can no "
            "longer be told by its files: start the program again"
        )


@lru_cache(maxsize=256)
def _digest_of(folder: Path, file: LoadedFile) -> str:
    """The digest of a file in the state that `file` tells from others."""
    with (folder / file.name).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
