"""Tell checkpoints apart by what their files hold."""

import hashlib
from functools import lru_cache
from pathlib import Path

from backend.errors import CheckpointError
from backend.model.checkpoint import Checkpoint, LoadedFile, files_in


def fingerprint(checkpoint: Checkpoint) -> str:
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


def _require_unchanged(checkpoint: Checkpoint, folder: Path) -> None:
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
