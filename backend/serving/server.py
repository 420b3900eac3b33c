"""The HTTP and WebSocket application: the wire, the page's files, samples and health."""

import asyncio
import json
import logging
import mimetypes
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp

from backend.admission import Admission
from backend.conversation.conversation import ConversationOptions
from backend.conversation.settings import GA_RATE_HZ, ConversationSettings
from backend.engine import Engine
from backend.errors import SettingsError
from backend.model.hub_store import Report
from backend.recordings.forks import Forks
from backend.recordings.live import Recordings
from backend.recordings.store import Gallery, RecordingStore, StoreOptions
from backend.serving.access import SUBPROTOCOL, Doorkeeper, OwnPagesOnly, SecurityHeaders
from backend.serving.page_routes import page_routes
from backend.serving.prefix import Prefixed
from backend.serving.recordings import RecordingsApi
from backend.serving.socket_protocol import RealtimeSocket
from backend.serving.starting import StartingApp
from backend.speech import Voices
from backend.timing import SystemTime
from backend.wires.connection import Connection, Request, Start
from backend.wires.conversations import Conversations
from backend.wires.errors import CloseCode, ConnectionEnd, WireError, first_end
from backend.wires.realtime.dialect import Dialect
from backend.wires.realtime.server_messages import error_event
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
PING_SECONDS = 20.0
"""Between pings, and for the answer: a peer that is gone without a word is found out."""

_HERE = frozenset(map(ip_address, ("127.0.0.1", "0.0.0.0", "::1", "::")))
_OLDER_API = "realtime=v1"
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


class RealtimeService:
    """Serves the sockets of `/v1/realtime`."""

    def __init__(self, engine: Engine, options: ServingOptions) -> None:
        self.doorkeeper = Doorkeeper(options.access_key, own_hosts=options.own_hosts)
        time = SystemTime()
        self.admission = Admission(engine.config.num_slots, time)
        self.recordings: Recordings | None = None
        if options.recordings is not None:
            store = RecordingStore(options.recordings)
            self.recordings = Recordings(store, engine.checkpoint)
        self._conversations = Conversations(
            engine, self.admission, time, recordings=self.recordings
        )
        self._checkpoint = engine.checkpoint
        self._voices = Voices()
        self._idle_seconds = options.idle_minutes * 60

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it closes."""
        # Also for a page that is refused: browsers do not tell why a handshake failed.
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        try:
            with self.doorkeeper.let_in(websocket):
                await self._connection(websocket).run()
        except* ConnectionEnd as ends:
            await _end(websocket, first_end(ends))
        except* (WebSocketDisconnect, TimeoutError):
            logger.info("a client went away")

    def _connection(self, websocket: WebSocket) -> Connection:
        async def send(text: str) -> None:
            # Whoever reads the client's messages learns that it has gone, and whether on purpose.
            with suppress(WebSocketDisconnect):
                async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                    await websocket.send_text(text)

        request = self._request(websocket.query_params, websocket.headers)
        return Connection(self._conversations, request, Messages(websocket), send)

    def _request(self, query: QueryParams, headers: Headers) -> Request:
        """What the address and the headers ask for.

        Raises:
            ConnectionEnd: it cannot be.
        """
        options = ConversationOptions(
            model=self._checkpoint.name,
            dialect=Dialect.DUPLEX if query.get("duplex") == "1" else Dialect.REALTIME,
            input_rate_hz=_input_rate_hz(query),
            voices=self._voices,
            has_older_names=_OLDER_API in headers.get("openai-beta", ""),
            idle_seconds=self._idle_seconds,
            recording_title=query.get("title", "") if query.get("record") == "1" else None,
        )
        if options.recording_title is not None and self.recordings is None:
            error = WireError("this server records nothing", "recording_off")
            raise ConnectionEnd(error, CloseCode.POLICY)
        try:
            defaults = ConversationSettings(
                instructions=self._checkpoint.system_prompt,
                sampling=self._checkpoint.sampling,
                input_rate_hz=options.input_rate_hz,
            )
        except WireError as error:
            raise ConnectionEnd(error, CloseCode.POLICY) from error
        waits = options.dialect is Dialect.DUPLEX and query.get("autostart") == "0"
        return Request(options, defaults, Start.FIRST_MESSAGE if waits else Start.AT_ONCE)


class Messages:
    """A client's messages until it goes; waiting for the next may be cancelled."""

    def __init__(self, websocket: WebSocket) -> None:
        self.has_left = False
        """Whether the client went on purpose: it closed the socket, and did not lose it."""
        self._websocket = websocket

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            self.has_left = message.get("code") in _GOODBYES
            raise StopAsyncIteration
        text: str | None = message.get("text")
        if text is not None:
            return text
        content: bytes = message["bytes"]
        return content


def create_app(engine: Engine, options: ServingOptions | None = None) -> FastAPI:
    """The application over a running engine."""
    options = options or ServingOptions()
    service = RealtimeService(engine, options)
    recordings = service.recordings
    gradio = gradio_app()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if recordings is not None:
            await asyncio.to_thread(recordings.store.tidy)
            # Nobody waits for it, not even who ends the server.
            threading.Thread(target=recordings.get_ready, daemon=True).start()
        async with gradio.router.lifespan_context(gradio):
            yield
        if recordings is not None:
            await recordings.close()

    # Routes for what is needed, and no others: no schema, no second address for anything.
    app = FastAPI(openapi_url=None, redirect_slashes=False, lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "checkpoint": engine.checkpoint.name,
            "device": str(engine.checkpoint.device),
            "sessions": service.admission.num_taken,
            "session_limit": engine.config.num_slots,
            "waiting": service.admission.num_waiting,
            "requires_key": service.doorkeeper.requires_key,
            "abilities": [asdict(ability) for ability in engine.checkpoint.abilities],
            "recordings": _recording_fields(options.recordings),
        }

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await service.serve(websocket)

    forks = Forks(
        engine.checkpoint, lambda: service.admission.num_taken, Admission(1, SystemTime())
    )
    RecordingsApi(service.doorkeeper, Gallery(GALLERY_FOLDER), recordings, forks).add_to(app)
    samples = OwnPagesOnly(StaticFiles(directory=SAMPLES_FOLDER), options.own_hosts)
    app.mount("/samples", samples, name="samples")
    app.router.routes.extend(page_routes(gradio, service.doorkeeper))
    return app


def server_config(
    engine: Engine, host: str, port: int, options: ServingOptions | None = None
) -> uvicorn.Config:
    """How uvicorn serves the application; port 0 takes a free one."""
    options = options or ServingOptions()
    return _uvicorn_config(create_app(engine, options), host, port, options)


def _uvicorn_config(app: ASGIApp, host: str, port: int, options: ServingOptions) -> uvicorn.Config:
    # On Windows programs may have registered others, and browsers take us at our word (nosniff).
    mimetypes.add_type("text/javascript", ".js")
    mimetypes.add_type("text/css", ".css")
    return uvicorn.Config(
        SecurityHeaders(Prefixed(app), options.framed_by),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        proxy_headers=options.trusted_proxies is not None,
        forwarded_allow_ips=options.trusted_proxies,
        ws=RealtimeSocket,
        ws_max_size=MAX_WEBSOCKET_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        # Sound hardly compresses: it would cost time and memory for nothing.
        ws_per_message_deflate=False,
    )


def serve(
    open_engine: Callable[[Report], Engine],
    host: str,
    port: int,
    options: ServingOptions,
    on_open: Callable[[], None],
) -> None:
    """Serve until interrupted, from the start: a page says so while the engine is opened.

    Args:
        open_engine: does so, in a thread of its own, and reports how a download goes.
        host: address to serve on.
        port: 0 takes a free one.
        options: how clients are treated.
        on_open: is called when the page is there.

    Raises:
        SettingsError: the address is taken, not this machine's or not allowed.
        What `open_engine` raises.
    """
    _require_free(host, port)

    def end(starting: StartingApp) -> None:
        if starting.error is None:
            on_open()
        else:
            server.should_exit = True

    starting = StartingApp(
        lambda report: create_app(open_engine(report), options), STATIC_FOLDER, end
    )
    server = uvicorn.Server(_uvicorn_config(starting, host, port, options))
    server.run()
    if starting.error is not None:
        raise starting.error


def page_address(host: str, port: int) -> str:
    """Where a browser on this machine finds the page of a server that listens on `host`."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    # Browsers give localhost the microphone; the unspecified address stands for every one.
    if address in _HERE:
        return f"http://localhost:{port}"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"


def _require_free(host: str, port: int) -> None:
    """Find out whether the address can be served on; uvicorn would only log that it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        # What follows in brackets is the address once more.
        reason = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]
        raise SettingsError(
            f"port {port} of {host} cannot be served on: {reason[0].lower()}{reason[1:]}; "
            "choose another with --port or --host"
        ) from error


def _recording_fields(options: StoreOptions | None) -> dict[str, Any]:
    if options is None:
        return {"is_on": False, "may_share": False, "max_mb": 0}
    return {"is_on": True, "may_share": options.may_share, "max_mb": options.max_mb}


def _input_rate_hz(query: QueryParams) -> int:
    given = query.get("input_rate", str(GA_RATE_HZ))
    # Python reads no number of thousands of digits.
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        error = WireError(
            f"input_rate must be a number of Hz, not {given[:32]!r}", "invalid_value", "input_rate"
        )
        raise ConnectionEnd(error, CloseCode.POLICY)
    return int(given)


async def _end(websocket: WebSocket, end: ConnectionEnd) -> None:
    """Say why, then close; the client may have gone already."""
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            if end.error is not None:
                await websocket.send_text(json.dumps(error_event(end.error)))
            await websocket.close(end.close_code, end.reason)
