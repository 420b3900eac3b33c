"""What visitors meet while the model is fetched and loaded: a page that says so, and 503."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from backend.model.hub_store import Progress, Report
from backend.wires.errors import CloseCode, WireError
from backend.wires.registry import WIRES
from backend.wires.wire import WireKind

RETRY_SECONDS = 5
LOADING = "loading"
"""The phase without a download, or after it."""


class LeavingError(Exception):
    """The server ends before the model is there."""


class StartingApp:
    """An ASGI application that becomes another one once that can be opened.

    Args:
        open_app: makes it, in a thread of its own; what it raises is kept in `error`.
        static_folder: what the page that says so is made of.
        on_end: told when it is open, or cannot be opened.
    """

    def __init__(
        self,
        open_app: Callable[[Report], FastAPI],
        static_folder: Path,
        on_end: Callable[["StartingApp"], None],
    ) -> None:
        self.error: BaseException | None = None
        self.app: FastAPI | None = None
        """The other one, once it is open."""
        self._open_app = open_app
        self._page = static_folder / "starting.html"
        self._on_end = on_end
        self._progress: Progress | None = None
        self._is_leaving = threading.Event()
        self._starting = Starlette(
            routes=[
                Route("/", self._show_page),
                Route("/health", self._health),
                Mount("/live", StaticFiles(directory=static_folder)),
                *(WebSocketRoute(wire.path, _refuse_socket(wire)) for wire in WIRES),
                Route("/{rest:path}", self._refuse),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as whichever application is there."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await (self.app or self._starting)(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            opening = asyncio.create_task(self._open(stack))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self._is_leaving.set()
            # A model that is being loaded goes on being loaded, for as long as the process lives.
            opening.cancel()
            await asyncio.wait([opening])
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self, stack: AsyncExitStack) -> None:
        try:
            app = await asyncio.wrap_future(self._opened())
            await stack.enter_async_context(app.router.lifespan_context(app))
            self.app = app
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever it is, it ends the server, which then raises it
            self.error = error
        if not self._is_leaving.is_set():
            self._on_end(self)

    def _opened(self) -> "Future[FastAPI]":
        """The other application, from a thread that does not keep the process from ending."""
        opened: Future[FastAPI] = Future()

        def run() -> None:
            if opened.set_running_or_notify_cancel():
                try:
                    opened.set_result(self._open_app(self._report))
                except BaseException as error:
                    opened.set_exception(error)

        threading.Thread(target=run, name="opening", daemon=True).start()
        return opened

    def _report(self, progress: Progress) -> None:
        self._progress = progress
        if self._is_leaving.is_set():
            raise LeavingError

    async def _show_page(self, _: Request) -> Response:
        return FileResponse(self._page, headers={"Cache-Control": "no-store"})

    async def _health(self, _: Request) -> Response:
        progress = self._progress
        is_loading = progress is None or progress.num_bytes == progress.total_bytes
        return JSONResponse(
            {
                "status": "starting",
                "phase": LOADING if progress is None or is_loading else progress.phase,
                "num_bytes": progress.num_bytes if progress else 0,
                "total_bytes": progress.total_bytes if progress else 0,
            },
            status_code=503,
            headers={"Retry-After": str(RETRY_SECONDS)},
        )

    async def _refuse(self, _: Request) -> Response:
        headers = {"Retry-After": str(RETRY_SECONDS)}
        return PlainTextResponse("the model is still being loaded\n", 503, headers)


def _refuse_socket(wire: WireKind) -> Callable[[WebSocket], Awaitable[None]]:
    async def refuse(websocket: WebSocket) -> None:
        await websocket.accept()
        error = WireError("the model is still being loaded; try again in a moment", "starting")
        await websocket.send_text(wire.refusal(error))
        await websocket.close(CloseCode.FULL, "starting")

    return refuse
