"""The page that holds the model itself, as a folder that any file server serves."""

import gzip
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from backend.browser.export import (
    DECODER,
    HEARING,
    LARGEST_DIFFERENCE,
    LargestDifferences,
    difference,
    export,
)
from backend.browser.graph import WeightFormat
from backend.browser.runtime import LOADER, REPOSITORY, RUNTIME, WASM, has_runtime
from backend.errors import CheckpointError, SettingsError
from backend.model.checkpoint import Checkpoint
from webui.bundling import PARTS, bundle

PAGE = REPOSITORY / "webui" / "static"
SAMPLES = REPOSITORY / "assets" / "samples"
OF_SERVERS = ("replay.*", "starting.*", "preview.jpg", "here.html", "local-panel.css")
"""Files of the page that mean nothing here, or lie elsewhere."""
MODULES = ("*.js", "messages-*.json", "engine", "recorder")
"""What is in the bundles."""
BINARIES = ("gz", "png", "ogg")
FRONT_MATTER = """\
---
title: Audio-Interaction Live, in the page
emoji: 🎙️
colorFrom: green
colorTo: indigo
sdk: static
app_file: index.html
fullWidth: true
short_description: A voice model that listens, wholly in your browser
license: apache-2.0
models:
  - zhifeixie/AudioInteraction
tags:
  - audio
  - speech
  - voice-assistant
---

The model runs in the page, in WebAssembly: nothing that it hears leaves the browser. This folder
was made by `make static`; no header is needed, as one thread does.
"""


def export_checked(
    checkpoint: Checkpoint, folder: Path, weight_format: WeightFormat
) -> LargestDifferences:
    """Export to `folder`, and say how far from torch's the numbers lie.

    Raises:
        CheckpointError: too far, where nothing was rounded; or what `export` raises.
    """
    export(checkpoint, folder, weight_format)
    found = difference(checkpoint, folder)
    if weight_format is WeightFormat.EXACT and found.logits > LARGEST_DIFFERENCE:
        raise CheckpointError(
            f"{folder}: a logit lies {found.logits:g} from torch's, more than "
            f"{LARGEST_DIFFERENCE:g}: this is another model"
        )
    return found


def size_of(folder: Path) -> int:
    """Bytes of all that a page may ask for."""
    return sum((folder / name).stat().st_size for name in _files(folder))


def assemble(
    folder: Path, checkpoint: Checkpoint, weight_format: WeightFormat = WeightFormat.EXACT
) -> None:
    """Fill `folder`, which must not be there or is replaced.

    Raises:
        SettingsError: the runtime is not installed, or the page's modules cannot be bundled.
        CheckpointError: the checkpoint is none that a page can hold, or what was exported computes
            other numbers.
    """
    if not has_runtime():
        raise SettingsError(f"{RUNTIME} is missing: `make static` installs it")
    shutil.rmtree(folder, ignore_errors=True)
    live = folder / "live"
    shutil.copytree(PAGE, live, ignore=shutil.ignore_patterns(*OF_SERVERS, *MODULES))
    try:
        bundle(PAGE, ("here.js", *PARTS), live)
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        raise SettingsError(f"the page's modules cannot be bundled: {error}") from error
    shutil.copytree(SAMPLES, folder / "samples")
    _write_index(folder)
    _write_health(folder, checkpoint)
    build_engine(live / "engine" / "built", checkpoint, weight_format)
    (folder / "README.md").write_text(FRONT_MATTER, "utf-8")
    lines = [f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in BINARIES]
    (folder / ".gitattributes").write_text("".join(lines), "utf-8")
    _write_service_worker(folder)


def _write_index(folder: Path) -> None:
    shell = (PAGE / "here.html").read_text("utf-8")
    panel = (PAGE / "live.html").read_text("utf-8")
    (folder / "index.html").write_text(shell.replace("<!-- live.html -->", panel), "utf-8")


def _write_health(folder: Path, checkpoint: Checkpoint) -> None:
    """What a server says of itself, as a file: the page asks for it by the same address."""
    stated = {
        "status": "ok",
        "checkpoint": checkpoint.name,
        "device": "browser",
        "engine": "page",
        "abilities": [asdict(ability) for ability in checkpoint.abilities],
        "recordings": {"is_on": True, "may_share": False, "max_mb": 0},
    }
    (folder / "health").write_text(json.dumps(stated, ensure_ascii=False), "utf-8")


def build_engine(
    folder: Path, checkpoint: Checkpoint, weight_format: WeightFormat = WeightFormat.EXACT
) -> None:
    """Put the runtime and the model into `folder`, compressed: not every file server does it.

    Raises:
        CheckpointError: the checkpoint is none that a page can hold, or what was exported computes
            other numbers.
    """
    export_checked(checkpoint, folder, weight_format)
    shutil.copyfile(RUNTIME / LOADER, folder / LOADER)
    shutil.copyfile(RUNTIME / WASM, folder / WASM)
    sizes = {}
    for name in (WASM, HEARING, DECODER):
        packed = folder / f"{name}.gz"
        # Without a time: the same content is the same file.
        packed.write_bytes(gzip.compress((folder / name).read_bytes(), 9, mtime=0))
        (folder / name).unlink()
        sizes[packed.name] = packed.stat().st_size
    (folder / "files.json").write_text(json.dumps({"files": sizes}), "utf-8")


def _write_service_worker(folder: Path) -> None:
    files = sorted(_files(folder))
    version = hashlib.sha256()
    for name in files:
        version.update(f"{name} ".encode() + (folder / name).read_bytes())
    served = ["./", *(name for name in files if name != "index.html")]
    script = (PAGE / "service-worker.js").read_text("utf-8")
    script = script.replace("FILES = []", f"FILES = {json.dumps(served)}")
    script = script.replace("VERSION = ''", f"VERSION = {version.hexdigest()[:16]!r}")
    (folder / "service-worker.js").write_text(script, "utf-8")


def _files(folder: Path) -> Iterator[str]:
    """What the page may ask for: not what a Space's repository holds besides."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in (".gitattributes", "README.md"):
            yield path.relative_to(folder).as_posix()
