"""The HTTP and WebSocket application: the wire, the page's files, samples and health."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response

from backend.engine import Engine
from backend.realtime import (
    CloseCode,
    Connection,
    ConnectionEnd,
    Conversation,
    ConversationOptions,
    Dialect,
    WireError,
)
from backend.realtime.errors import first_end
from backend.realtime.server_events import error_event
from backend.realtime.session_config import GA_RATE_HZ, SessionConfig
from webui.gradio_app import STATIC_FOLDER, mount_page

logger = logging.getLogger(__name__)

SAMPLES_FOLDER = Path(__file__).parents[1] / "assets" / "samples"
MAX_WEBSOCKET_BYTES = 16 * 1024 * 1024
"""Larger messages are not even read: the socket closes with 1009."""
SEND_TIMEOUT_SECONDS = 10.0
"""A client that takes no message for this long is gone."""
SHUTDOWN_SECONDS = 2
"""Pages that are still open do not hold up Ctrl+C for longer."""

_SUBPROTOCOL = "realtime"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class RevalidatedFiles(StaticFiles):
    """Files that browsers ask about each time, so that no page mixes two versions of them."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, not to be used again without asking."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def create_app(engine: Engine) -> FastAPI:
    """The application over a running engine."""
    app = FastAPI(title="Audio-Interaction Live", docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "checkpoint": engine.checkpoint.name,
            "device": str(engine.checkpoint.device),
            "sessions": engine.num_sessions,
            "session_limit": engine.config.num_slots,
            "abilities": [asdict(ability) for ability in engine.checkpoint.abilities],
        }

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await _serve_realtime(engine, websocket)

    app.mount("/live", RevalidatedFiles(directory=STATIC_FOLDER), name="live")
    app.mount("/samples", StaticFiles(directory=SAMPLES_FOLDER), name="samples")
    return mount_page(app)


def server_config(engine: Engine, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves the application; port 0 takes a free one."""
    return uvicorn.Config(
        create_app(engine),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ws_max_size=MAX_WEBSOCKET_BYTES,
        # Sound hardly compresses: it would cost time and memory for nothing.
        ws_per_message_deflate=False,
    )


def serve(engine: Engine, host: str, port: int) -> None:
    """Serve until interrupted."""
    uvicorn.Server(server_config(engine, host, port)).run()


def is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from our own page, or from no page at all.

    A page from elsewhere must not talk to a visitor's local server. Browsers always send
    `Origin` with a WebSocket and let no page change it or add headers, so a proxy's
    `X-Forwarded-Host` can be believed here.
    """
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, _, _ = origin.partition("://")
    hosts = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
    ours = {_address(f"{scheme}://{host.strip()}") for host in hosts}
    return _address(origin) in ours - {None}


def _address(url: str) -> tuple[str, int | None] | None:
    """Host and port of an address; None where it names no host."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


async def _serve_realtime(engine: Engine, websocket: WebSocket) -> None:
    # Also for a page that is refused: browsers do not tell why a handshake failed.
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
    try:
        _require_same_origin(websocket.headers)
        connection = _connection(engine, websocket)
        await connection.run(_messages(websocket))
    except* ConnectionEnd as ends:
        await _end(websocket, first_end(ends))
    except* (WebSocketDisconnect, TimeoutError):
        logger.info("a client went away")


def _require_same_origin(headers: Headers) -> None:
    """Let no page from elsewhere in.

    Raises:
        ConnectionEnd: it is one.
    """
    if not is_same_origin(headers):
        error = WireError(
            f"a page from {headers['origin'][:200]} may not connect to {headers.get('host', '')}; "
            "open the page from this server, or have the proxy in front of it pass the Host or "
            "X-Forwarded-Host header",
            "origin_not_allowed",
        )
        raise ConnectionEnd(error, CloseCode.POLICY)


def _connection(engine: Engine, websocket: WebSocket) -> Connection:
    async def send(text: str) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            await websocket.send_text(text)

    checkpoint = engine.checkpoint
    options = _conversation_options(websocket.query_params, checkpoint.name)
    try:
        defaults = SessionConfig(
            instructions=checkpoint.system_prompt,
            sampling=checkpoint.sampling,
            input_rate_hz=options.input_rate_hz,
        )
    except WireError as error:
        raise ConnectionEnd(error, CloseCode.POLICY) from error
    return Connection(Conversation(engine, options, defaults), send)


def _conversation_options(query: QueryParams, model: str) -> ConversationOptions:
    """What the address asks for.

    Raises:
        ConnectionEnd: `input_rate` is not a number.
    """
    dialect = Dialect.DUPLEX if query.get("duplex") == "1" else Dialect.REALTIME
    given_rate = query.get("input_rate", str(GA_RATE_HZ))
    if not (given_rate.isascii() and given_rate.isdigit()):
        error = WireError(
            f"input_rate must be a number of Hz, not {given_rate[:32]!r}",
            "invalid_value",
            "input_rate",
        )
        raise ConnectionEnd(error, CloseCode.POLICY)
    return ConversationOptions(model, dialect, int(given_rate))


async def _messages(websocket: WebSocket) -> AsyncIterator[str | bytes]:
    """The client's messages until it goes."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        yield message["bytes"] if text is None else text


async def _end(websocket: WebSocket, end: ConnectionEnd) -> None:
    """Say why, then close; the client may have gone already."""
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            if end.error is not None:
                await websocket.send_text(json.dumps(error_event(end.error)))
            await websocket.close(end.close_code, end.reason)
