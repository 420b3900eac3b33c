"""The files of a checkpoint in the released layout, and those of the one that ships with this.

Needs no packages, for the doctor.
"""

import hashlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

LANGUAGE_MODEL_CONFIG = "model_config.yaml"
SHARD_INDEX = "model.safetensors.index.json"
SHARDS = "model*.safetensors"
"""Pattern of the files that hold the language model's weights."""
SINGLE_SHARD = "model.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
AUDIO_TOWER_CONFIG = "qwen25OmniConfig/config.json"
AUDIO_TOWERS = (
    "audiointeraction_ChunkwisedEncoder.pth",
    "MiniOmni3_ChunkwisedEncoder.pth",
)
WORD_HEAD = "word_head.safetensors"
"""Optional, and our own addition: what writes down the words that are heard."""
EMBEDDED = "embedded"
"""What the checkpoint is called that this repository holds."""
RELEASED_MODEL = "zhifeixie/AudioInteraction"
"""Its id on the Hub."""
DEFAULT_REVISION = "main"
HUB_FILES = (
    SHARDS,
    SHARD_INDEX,
    LANGUAGE_MODEL_CONFIG,
    TOKENIZER,
    CONFIG,
    GENERATION_CONFIG,
    AUDIO_TOWER_CONFIG,
    *AUDIO_TOWERS,
    WORD_HEAD,
)
"""Patterns of what is fetched: all that is ever read."""
REPOSITORY = Path(__file__).parents[2]
EMBEDDED_FOLDER = REPOSITORY / "assets" / "checkpoint"
CHECKSUMS = REPOSITORY / "assets" / "checkpoint.sha256"
"""Hashes of its files, as `sha256sum` writes them."""

_LFS_POINTER = b"version https://git-lfs"


def embedded_files() -> dict[Path, str]:
    """Its files, and the hash that each should have.

    Raises:
        OSError: the hashes cannot be read.
    """
    lines = (line.partition("  ") for line in CHECKSUMS.read_text("utf-8").splitlines())
    return {CHECKSUMS.parent / name: digest for digest, _, name in lines}


def damages() -> Iterator[str]:
    """What of its files is missing or not as it was shipped, in words.

    Raises:
        OSError: a file is there and cannot be read.
    """
    for path, digest in embedded_files().items():
        name = path.relative_to(CHECKSUMS.parent).as_posix()
        if not path.is_file():
            yield f"{name} is missing"
        elif _begins_as_pointer(path):
            yield f"{name} is only a pointer of git LFS"
        elif _sha256(path) != digest:
            yield f"{name} was changed"


def mending() -> str:
    """What helps where it is damaged."""
    folder = os.path.relpath(REPOSITORY)
    git = "git" if folder == os.curdir else f"git -C {shlex.quote(folder)}"
    if not (REPOSITORY / ".git").exists():
        return "get the folder assets again from where the program came from"
    is_pointer = any(map(_begins_as_pointer, filter(Path.is_file, embedded_files())))
    return f"{git} lfs pull" if is_pointer else f"{git} checkout -- assets"


def _begins_as_pointer(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(len(_LFS_POINTER)) == _LFS_POINTER


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
