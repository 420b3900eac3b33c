"""The embedded model for pages whose visitors wait for a place, made when the first asks for it."""

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from backend.browser.runtime import REPOSITORY, has_runtime

logger = logging.getLogger(__name__)


async def make(folder: Path) -> str | None:
    """Put the engine's files into `folder`, in a process beside; returns why they cannot be had."""
    if not has_runtime():
        return "the runtime is not installed: `make static` does that"
    command = (sys.executable, "-m", "backend.browser", "engine", "--folder", str(folder))
    making = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, told = await making.communicate()
    except asyncio.CancelledError:
        making.kill()
        raise
    return told.decode(errors="replace").strip()[-200:] if making.returncode else None


class PageEngine:
    """An application of the engine's files; 404 where this server cannot make them."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._making: asyncio.Task[str | None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as soon as the files are there."""
        if self._making is None:
            self._making = asyncio.create_task(self._make())
        # One who goes away meanwhile does not end it for others.
        problem = await asyncio.shield(self._making)
        if self._folder is None or problem is not None:
            await PlainTextResponse(f"{problem}\n", 404)(scope, receive, send)
        else:
            await StaticFiles(directory=self._folder.name)(scope, receive, send)

    async def _make(self) -> str | None:
        self._folder = tempfile.TemporaryDirectory(prefix="audio-interaction-engine-")
        problem = await make(Path(self._folder.name))
        if problem is not None:
            logger.info("visitors who wait are not offered the model in the page: %s", problem)
        return problem
