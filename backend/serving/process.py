"""The process that serves: it listens at once, and tells visitors so while the rest is loaded.

Torch, Gradio and the model take seconds, so nothing here imports them. Until they are there, a page
says so, and all else is answered 503.
"""

import asyncio
import ctypes
import gc
import mimetypes
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from backend.config import CONNECTIONS_PER_ADDRESS
from backend.errors import EngineFailedError
from backend.model.hub_store import Progress, Report
from backend.recordings.store import StoreOptions
from backend.serving.access import SecurityHeaders, require_usable_key
from backend.serving.http_protocol import HttpProtocol, ServerConfig
from backend.serving.limits import (
    ConnectionLimits,
    OpenConnections,
    RequestAllowance,
    descriptor_limit,
    raise_descriptor_limit,
)
from backend.serving.proxies import Forwarded, Prefixed, Proxies
from backend.serving.socket_protocol import PacedSocket
from backend.wires.errors import CloseCode, WireError
from backend.wires.registry import WIRES
from backend.wires.wire import WireKind
from webui.bundling import STATIC_FOLDER

if TYPE_CHECKING:
    from fastapi import FastAPI

    from backend.engine import Engine
    from backend.recordings.forks import AlsoCheckpoint
    from backend.serving.listeners import ZeroGpuListener

MAX_WEBSOCKET_BYTES = 16 * 1024 * 1024
"""Larger messages are not even read: the socket closes with 1009."""
SHUTDOWN_SECONDS = 2
"""Pages that are still open do not hold up Ctrl+C for longer."""
FAREWELL_SECONDS = 5.0
"""Between the engine's failure and the server's end: clients are told, recordings are packed."""
SWITCH_SECONDS = 0.0005
"""For which a thread of Python keeps the others waiting. A step of the engine lets go of the
interpreter at each product and takes it back: beside an event loop with much to do, each time this
long. With Python's own 5 ms, steps took a third longer beside a thread that was busy a third of
the time, and with this as long as alone."""
PING_SECONDS = 20.0
"""Between pings, and for the answer: a peer that is gone without a word is found out."""
RETRY_SECONDS = 5
LOADING = "loading"
"""The phase without a download, or after it."""
TRIM_SECONDS = 10.0
"""Between the end of a conversation and that, in which others may end too."""


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How a server treats its clients."""

    access_key: str | None = None
    """What a client has to know; None lets everybody in."""
    idle_minutes: float = 10.0
    """Of quiet that end a conversation; 0 for never."""
    trusted_proxies: str | None = None
    """Addresses, with commas, whose `X-Forwarded-For` is believed; `*` for all."""
    recordings: StoreOptions | None = None
    """Where conversations are recorded whose clients ask for it; None records nothing."""
    own_hosts: tuple[str, ...] = ()
    """Hosts that our page may come from, beside those that requests name."""
    framed_by: tuple[str, ...] = ()
    """Origins, as in `https://example.org`, whose pages may show ours in a frame."""
    connections_per_address: int = CONNECTIONS_PER_ADDRESS
    """Open at once; proxies and this machine may have more."""
    has_neural_voice: bool = False
    """Whether replies may be spoken by the neural voice of this machine, which takes a process."""
    teaching: Path | None = None
    """Where takes of something new are kept; None: visitors may not teach."""
    also: "AlsoCheckpoint | None" = None
    """What recordings may be heard with as well."""
    zero_gpu: "ZeroGpuListener | None" = None
    """Hears files in place of the engine."""

    def __post_init__(self) -> None:
        if self.access_key is not None:
            require_usable_key(self.access_key)


def serve(
    open_app: Callable[[Report], "tuple[Engine, FastAPI]"],
    listening: socket.socket,
    options: ServingOptions,
    on_open: Callable[[], None],
) -> None:
    """Serve until interrupted, from the start: a page says so while the application is opened.

    Args:
        open_app: does so, in a thread of its own, and reports how a download goes; it gives the
            engine that the application runs over as well.
        listening: where to serve; it is closed in the end.
        options: how clients are treated.
        on_open: is called when the page is there.

    Raises:
        EngineFailedError: the engine failed while it served.
        What `open_app` raises.
    """
    raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    host, port = listening.getsockname()[:2]
    failures: list[str] = []

    def leave() -> None:
        server.should_exit = True

    def engine_failed(failed: "Future[str]") -> None:
        failures.append(failed.result())
        farewell = threading.Timer(FAREWELL_SECONDS, leave)
        farewell.daemon = True
        farewell.start()

    def opened(report: Report) -> "FastAPI":
        engine, app = open_app(report)
        engine.failed.add_done_callback(engine_failed)
        # What is there by now stays: no collection need go through it again, which takes long.
        gc.collect()
        gc.freeze()
        return app

    def end(starting: StartingApp) -> None:
        if starting.error is None:
            on_open()
        else:
            leave()

    starting = StartingApp(opened, STATIC_FOLDER, end)
    server = uvicorn.Server(uvicorn_config(starting, host, port, options))
    server.run([listening])
    if starting.error is not None:
        raise starting.error
    if failures:
        raise EngineFailedError(f"the engine failed ({failures[0]}): start the server again")


def uvicorn_config(app: ASGIApp, host: str, port: int, options: ServingOptions) -> ServerConfig:
    """How uvicorn serves an application, on a free port for port 0."""
    # On Windows programs may have registered others, and browsers take us at our word (nosniff).
    mimetypes.add_type("text/javascript", ".js")
    mimetypes.add_type("text/css", ".css")
    limits = ConnectionLimits.within(descriptor_limit(), options.connections_per_address)
    return ServerConfig(
        guarded(app, options),
        OpenConnections(limits, Proxies(options.trusted_proxies)),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        proxy_headers=False,
        http=HttpProtocol,
        ws=PacedSocket,
        ws_max_size=MAX_WEBSOCKET_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        # Sound hardly compresses: it would cost time and memory for nothing.
        ws_per_message_deflate=False,
    )


def guarded(app: ASGIApp, options: ServingOptions) -> ASGIApp:
    """The application with what every request and answer of it goes through."""
    limited = SecurityHeaders(RequestAllowance(Prefixed(app)), options.framed_by)
    return Forwarded(limited, Proxies(options.trusted_proxies))


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
        open_app: Callable[[Report], "FastAPI"],
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


class Heap:
    """Gives back to the system what conversations that have ended had of its memory, after a while.

    The C library keeps what was freed as long as anything that is still used lies behind it, and
    after hours of conversations that is most of it. Here glibc is asked to give back whole pages:
    https://man7.org/linux/man-pages/man3/malloc_trim.3.html

    Args:
        trim: does it; None takes the C library's, and does nothing where that has none.
        pause_seconds: after which it is done.
    """

    def __init__(
        self, trim: Callable[[], object] | None = None, pause_seconds: float = TRIM_SECONDS
    ) -> None:
        self._trim = trim or _malloc_trim()
        self._pause_seconds = pause_seconds
        self._is_asked = threading.Event()
        if self._trim is not None:
            threading.Thread(target=self._run, name="heap", daemon=True).start()

    def conversation_ended(self) -> None:
        """There is something to give back."""
        self._is_asked.set()

    def _run(self) -> None:
        assert self._trim is not None, "there is no thread without it"
        while True:
            self._is_asked.wait()
            time.sleep(self._pause_seconds)
            self._is_asked.clear()
            self._trim()


def _malloc_trim() -> Callable[[], object] | None:
    """None where the C library has no such function: elsewhere than in glibc."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    malloc_trim.argtypes = [ctypes.c_size_t]
    return lambda: malloc_trim(0)
