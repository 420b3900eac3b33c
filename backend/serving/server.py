"""The HTTP and WebSocket application: the wire, the page's files, samples and health."""

import asyncio
import gc
import logging
import mimetypes
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Protocol, Self

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocketDisconnected

from backend.admission import Admission
from backend.engine import Engine
from backend.engine.capacity import too_slow
from backend.errors import EngineFailedError
from backend.journal import Journal
from backend.model.checkpoint import Ability
from backend.model.hub_store import Report
from backend.recordings.forks import AlsoCheckpoint, Forks
from backend.recordings.live import Recordings
from backend.recordings.store import Gallery, RecordingStore, StoreOptions
from backend.recordings.workers import Workers
from backend.serving.access import (
    SUBPROTOCOL,
    Doorkeeper,
    OwnPagesOnly,
    SecurityHeaders,
    require_usable_key,
)
from backend.serving.connection_limits import (
    MAX_PER_ADDRESS,
    ConnectionLimits,
    OpenConnections,
    Proxies,
)
from backend.serving.descriptors import descriptor_limit, raise_descriptor_limit
from backend.serving.endpoints import Endpoints, EngineListener, for_gradio
from backend.serving.forwarded import Forwarded
from backend.serving.gradio_calls import GradioCalls
from backend.serving.heap import Heap
from backend.serving.http_protocol import HttpProtocol
from backend.serving.mcp import McpApi
from backend.serving.monitoring import Cluster, CountedTraffic, Monitoring, Traffic
from backend.serving.openai_api import OpenAIApi
from backend.serving.page_routes import page_routes
from backend.serving.prefix import Prefixed
from backend.serving.recordings import RecordingsApi
from backend.serving.request_allowance import RequestAllowance
from backend.serving.socket_protocol import PacedSocket
from backend.serving.starting import StartingApp
from backend.serving.uploads import Uploads
from backend.serving.uvicorn_config import ServerConfig
from backend.serving.zero_gpu import ZeroGpuListener
from backend.speech import Voices
from backend.speech.neural import JoeVoice
from backend.timing import SystemTime
from backend.wires.connection import Connection
from backend.wires.conversations import Conversations
from backend.wires.errors import CloseCode, ConnectionEnd, ErrorType, WireError, first_end
from backend.wires.registry import WIRES
from backend.wires.wire import Address, Offer, WireKind
from webui.gradio_app import STATIC_FOLDER, gradio_app

logger = logging.getLogger(__name__)

ASSETS_FOLDER = Path(__file__).parents[2] / "assets"
SAMPLES_FOLDER = ASSETS_FOLDER / "samples"
GALLERY_FOLDER = ASSETS_FOLDER / "gallery"
MAX_WEBSOCKET_BYTES = 16 * 1024 * 1024
"""Larger messages are not even read: the socket closes with 1009."""
SEND_TIMEOUT_SECONDS = 10.0
"""A client that takes no message for this long is gone."""
SHUTDOWN_SECONDS = 2
"""Pages that are still open do not hold up Ctrl+C for longer."""
FAREWELL_SECONDS = 5.0
"""Between the engine's failure and the server's end: clients are told, recordings are packed."""
SWITCH_SECONDS = 0.0005
"""For which a thread of Python keeps the others waiting. A step of the engine lets go of the
interpreter at each product and takes it back: beside an event loop with much to do, each time this
long. With Python's own 5 ms, steps took a third longer beside a thread that was busy a third of
the time, and with this as long as alone."""
OPENING = "hello"
PING_SECONDS = 20.0
"""Between pings, and for the answer: a peer that is gone without a word is found out."""

_LOST = (None, 1005, 1006)
"""Close codes of a connection that ended without a word."""
_GOODBYES = (1000, 1001, CloseCode.POLICY)
"""Close codes of a page that is done, of a window that was closed, and of a socket that floods."""


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
    connections_per_address: int = MAX_PER_ADDRESS
    """Open at once; proxies and this machine may have more."""
    has_neural_voice: bool = False
    """Whether replies may be spoken by the neural voice of this machine, which takes a process."""
    also: AlsoCheckpoint | None = None
    """What recordings may be heard with as well."""
    zero_gpu: ZeroGpuListener | None = None
    """Hears files in place of the engine."""

    def __post_init__(self) -> None:
        if self.access_key is not None:
            require_usable_key(self.access_key)


class Membership(Cluster, Protocol):
    """A server's part in a cluster."""

    @property
    def journal(self) -> Journal:
        """Of all conversations of the cluster."""

    async def run(self, conversations: Conversations, metrics: Callable[[], str]) -> None:
        """Tell the others of this server and hear of them, until it is to end; then hand over.

        Args:
            conversations: of this server.
            metrics: what it counts, in Prometheus' format.
        """


class SocketService:
    """Serves the sockets of all wires: they share the engine's conversations."""

    def __init__(
        self, engine: Engine, options: ServingOptions, journal: Journal | None = None
    ) -> None:
        self.doorkeeper = Doorkeeper(options.access_key, own_hosts=options.own_hosts)
        time = SystemTime()
        self.admission = Admission(engine.capacity.num_sessions, time)
        self.recordings: Recordings | None = None
        if options.recordings is not None:
            store = RecordingStore(options.recordings)
            self.recordings = Recordings(store, engine.checkpoint)
        self.conversations = Conversations(
            engine,
            self.admission,
            time,
            recordings=self.recordings,
            has_ended=Heap().conversation_ended,
            journal=journal,
        )
        self.joe = JoeVoice() if options.has_neural_voice else None
        self.too_slow = too_slow(engine.capacity, engine.checkpoint)
        """Why nobody can converse here in real time, and what helps; None where all can."""
        self._offer = Offer(
            model=engine.checkpoint.name,
            system_prompt=engine.checkpoint.system_prompt,
            sampling=engine.checkpoint.sampling,
            max_positions=engine.max_positions,
            voices=Voices(neural=[self.joe] if self.joe is not None else []),
            idle_seconds=options.idle_minutes * 60,
            may_record=self.recordings is not None,
            hears_words=engine.checkpoint.word_head is not None,
            opening=_opening(engine.checkpoint.abilities),
        )

    async def serve(self, websocket: WebSocket, kind: WireKind) -> None:
        """Serve one socket until it closes."""
        # Also for a page that is refused: browsers do not tell why a handshake failed.
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        messages = SocketMessages(websocket)
        try:
            async with self.doorkeeper.admit(websocket):
                await self._connection(websocket, kind, messages).run()
        except* ConnectionEnd as ends:
            await _end(websocket, kind, first_end(ends))
        except* (WebSocketDisconnect, TimeoutError) as gone:
            logger.info("a client went away, or took nothing more")
            clear_frames(gone.__traceback__)
        else:
            code = messages.close_code
            logger.info("a client went away (%s)", "lost" if code in _LOST else code)

    def _connection(
        self, websocket: WebSocket, kind: WireKind, messages: "SocketMessages"
    ) -> Connection:
        async def send(text: str) -> None:
            # Whoever reads the client's messages learns that it has gone, and whether on purpose.
            with suppress(WebSocketDisconnect, WebSocketDisconnected):
                async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                    await websocket.send_text(text)

        if self.too_slow is not None and websocket.query_params.get("pace") != "own":
            raise ConnectionEnd(_slower_than_sound(self.too_slow), CloseCode.POLICY)
        try:
            address = Address(
                websocket.query_params,
                websocket.headers,
                websocket.path_params,
                self.doorkeeper.session_of(websocket),
            )
            request = kind.request(address, self._offer)
        except WireError as error:
            raise ConnectionEnd(error, CloseCode.POLICY) from error
        return Connection(self.conversations, request, messages, send)


class SocketMessages:
    """A client's messages until it goes; waiting for the next may be cancelled."""

    def __init__(self, websocket: WebSocket) -> None:
        self.close_code: int | None = None
        """With which the client went; None while it is there."""
        self._websocket = websocket

    @property
    def has_left(self) -> bool:
        """Whether the client went on purpose: it closed the socket, and did not lose it."""
        return self.close_code in _GOODBYES

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            self.close_code = message.get("code")
            raise StopAsyncIteration
        text: str | None = message.get("text")
        if text is not None:
            return text
        content: bytes = message["bytes"]
        return content


def create_app(
    engine: Engine,
    options: ServingOptions | None = None,
    membership: Membership | None = None,
) -> FastAPI:
    """The application over a running engine, alone or as a member of a cluster."""
    options = options or ServingOptions()
    service = SocketService(engine, options, membership.journal if membership else None)
    recordings = service.recordings
    workers = Workers()
    uploads = Uploads()
    listener = options.zero_gpu or EngineListener(engine, service.admission)
    endpoints = Endpoints(listener, workers, uploads)
    gradio = gradio_app([for_gradio(endpoints.listen), for_gradio(endpoints.answer)])
    if options.zero_gpu is not None:
        options.zero_gpu.start(gradio.page)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if recordings is not None:
            # Nobody waits for it, not even who ends the server.
            threading.Thread(target=recordings.get_ready, daemon=True).start()
        if service.joe is not None:
            service.joe.get_ready()
        await api.begin()
        async with gradio.app.router.lifespan_context(gradio.app):
            if membership is None:
                yield
            else:
                taking_part = asyncio.create_task(
                    membership.run(service.conversations, monitoring.exposition)
                )
                yield
                taking_part.cancel()
        if service.joe is not None:
            await asyncio.to_thread(service.joe.close)
        await api.end()
        await asyncio.to_thread(uploads.close)
        await asyncio.to_thread(workers.close)
        if recordings is not None:
            await recordings.close()

    # Routes for what is needed, and no others: no schema, no second address for anything.
    app = FastAPI(openapi_url=None, redirect_slashes=False, lifespan=lifespan)
    traffic = Traffic()
    app.add_middleware(CountedTraffic, traffic=traffic)
    monitoring = Monitoring(
        engine,
        service.admission,
        service.conversations.counts,
        traffic,
        service.doorkeeper,
        service.too_slow,
        None if options.also is None else options.also.name,
        options.recordings,
        membership,
    )
    monitoring.add_to(app)
    for kind in WIRES:
        app.add_api_websocket_route(kind.path, _serving(service, kind))

    OpenAIApi(service.doorkeeper, engine.checkpoint.name, service.conversations).add_to(app)
    forks = Forks(
        engine.checkpoint,
        lambda: service.admission.num_taken,
        Admission(1, SystemTime()),
        workers,
        options.also,
    )
    gallery = Gallery(GALLERY_FOLDER)
    api = RecordingsApi(service.doorkeeper, gallery, recordings, forks, workers)
    api.add_to(app)
    samples = OwnPagesOnly(StaticFiles(directory=SAMPLES_FOLDER), options.own_hosts)
    app.mount("/samples", samples, name="samples")
    GradioCalls(gradio, service.doorkeeper, uploads).add_to(app)
    McpApi(service.doorkeeper, endpoints, uploads).add_to(app)
    app.router.routes.extend(page_routes(gradio.app, options.own_hosts))
    return app


def _opening(abilities: Sequence[Ability]) -> str | None:
    """What a model answers with a greeting, if it says so of itself."""
    return OPENING if any(ability.heard == OPENING for ability in abilities) else None


def _serving(service: SocketService, kind: WireKind) -> Callable[[WebSocket], Awaitable[None]]:
    async def serve_socket(websocket: WebSocket) -> None:
        await service.serve(websocket, kind)

    return serve_socket


def server_config(
    engine: Engine, host: str, port: int, options: ServingOptions | None = None
) -> ServerConfig:
    """How uvicorn serves the application; port 0 takes a free one."""
    options = options or ServingOptions()
    return _uvicorn_config(create_app(engine, options), host, port, options)


def _uvicorn_config(app: ASGIApp, host: str, port: int, options: ServingOptions) -> ServerConfig:
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


def serve(
    open_engine: Callable[[Report], Engine],
    listening: socket.socket,
    options: ServingOptions,
    on_open: Callable[[], None],
) -> None:
    """Serve until interrupted, from the start: a page says so while the engine is opened.

    Args:
        open_engine: does so, in a thread of its own, and reports how a download goes.
        listening: where to serve; it is closed in the end.
        options: how clients are treated.
        on_open: is called when the page is there.

    Raises:
        EngineFailedError: the engine failed while it served.
        What `open_engine` raises.
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

    def open_app(report: Report) -> FastAPI:
        engine = open_engine(report)
        engine.failed.add_done_callback(engine_failed)
        app = create_app(engine, options)
        # What is there by now stays: no collection need go through it again, which takes long.
        gc.collect()
        gc.freeze()
        return app

    def end(starting: StartingApp) -> None:
        if starting.error is None:
            on_open()
        else:
            leave()

    starting = StartingApp(open_app, STATIC_FOLDER, end)
    server = uvicorn.Server(_uvicorn_config(starting, host, port, options))
    server.run([listening])
    if starting.error is not None:
        raise starting.error
    if failures:
        raise EngineFailedError(f"the engine failed ({failures[0]}): start the server again")


def _slower_than_sound(why: str) -> WireError:
    return WireError(
        f"{why}; a client that sends only what is to be heard, and then waits, may connect with "
        "pace=own",
        "too_slow",
        error_type=ErrorType.SERVER,
    )


async def _end(websocket: WebSocket, kind: WireKind, end: ConnectionEnd) -> None:
    """Say why, then close; the client may have gone already."""
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            if end.error is not None:
                await websocket.send_text(kind.refusal(end.error))
            await websocket.close(end.close_code, end.reason)
