"""Tell checkpoints apart by what their files hold."""

import hashlib
from functools import lru_cache
from pathlib import Path

from backend.errors import CheckpointError
from backend.model.checkpoint import (
    AUDIO_TOWER_CONFIG,
    AUDIO_TOWERS,
    CONFIG,
    LANGUAGE_MODEL_CONFIG,
    TOKENIZER,
    Checkpoint,
)


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256, in hex, over the names and contents of the files that decide what it says.

    A file is read again only when its size or its time has changed. The first time takes seconds
    for a large checkpoint.

    Raises:
        CheckpointError: it has no files, or they cannot be read any more.
    """
    if checkpoint.folder is None:
        raise CheckpointError(f"the checkpoint {checkpoint.name} has no files to tell it by")
    digest = hashlib.sha256()
    try:
        for path in _files(checkpoint.folder):
            status = path.stat()
            name = path.relative_to(checkpoint.folder).as_posix()
            content = _digest_of(path, status.st_size, status.st_mtime_ns)
            digest.update(f"{name} {content}\n".encode())
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    stated = [LANGUAGE_MODEL_CONFIG, CONFIG, TOKENIZER, AUDIO_TOWER_CONFIG, *AUDIO_TOWERS]
    found = [folder / name for name in stated if (folder / name).is_file()]
    return sorted([*found, *folder.glob("model*.safetensors")])


@lru_cache(maxsize=256)
def _digest_of(path: Path, size: int, modified_ns: int) -> str:
    """The digest of a file; `size` and `modified_ns` only tell one state of it from another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
