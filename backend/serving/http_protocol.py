"""HTTP as uvicorn serves it, but no peer can hold a connection without a use, or fill the log.

What a peer has to do has a deadline that a byte now and then does not put off: to send a request,
to send its body, to read the answer.
"""

import asyncio
import errno
import logging
import socket
import struct
import sys
from asyncio import BaseTransport, TimerHandle
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from backend.serving.limits import Admitted, OpenConnections

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""From a connection's beginning, or the last answer's end, to the end of a request's headers."""
PART_BYTES = 4096
"""Of what may be headers, of which h11 takes 16 KB if it sees that they are not whole yet."""
BODY_SECONDS = 20.0
MIN_BODY_BYTES = 16 * 1024
"""Of a request's body, which come in every `BODY_SECONDS` until it is whole."""
READING_SECONDS = 30.0
"""In which a peer reads what waits for it, but for the last 16 KB."""
CLOSING_SECONDS = 10.0
"""For what is still to be sent once a connection is closed."""
RETRY_SECONDS = 10

LOG_SECONDS = 60.0
"""Between two warnings from the same line of code."""

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TALKATIVE = ("asyncio", "uvicorn.error", __name__)
"""Loggers that strangers can make warn as often as they like."""
_HEALTH = ("/health", "/ready", "/metrics")
"""What a full server is still asked for."""
_LINGER = "hh" if sys.platform == "win32" else "ii"
"""A structure of the system's: whether to linger, and for how long."""
_FULL = "the server has as many connections as it can; try again in a moment"


class OncePerMinute(logging.Filter):
    """Lets a line of code warn once a minute; errors are always told."""

    def __init__(self) -> None:
        super().__init__()
        self._told_at: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is told."""
        if record.levelno > logging.WARNING:
            return True
        line = (record.pathname, record.lineno)
        told_at = self._told_at.get(line)
        if told_at is not None and 0 <= record.created - told_at < LOG_SECONDS:
            return False
        self._told_at[line] = record.created
        return True


_ONCE_PER_MINUTE = OncePerMinute()


class ServerConfig(uvicorn.Config):
    """Uvicorn's configuration, for protocols that count connections.

    Args:
        app: what is served.
        connections: those of all protocols of this server.
        options: uvicorn's.
    """

    def __init__(self, app: Any, connections: OpenConnections, **options: Any) -> None:
        # Not uvloop where that happens to be installed: its transports are not asyncio's.
        super().__init__(app, loop="asyncio", backlog=connections.limits.per_accept, **options)
        self.connections = connections
        for name in _TALKATIVE:
            logging.getLogger(name).addFilter(_ONCE_PER_MINUTE)

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """Loops that do not fill the log where no connection can be accepted."""
        make = super().get_loop_factory() or asyncio.new_event_loop

        def make_loop() -> asyncio.AbstractEventLoop:
            loop = make()
            loop.set_exception_handler(_report)
            return loop

        return make_loop


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What went wrong on the loop; it tries to accept again by itself after a second."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS and "socket" in context:
        logger.warning("connections have to wait: %s", error.strerror)
    else:
        loop.default_exception_handler(context)


class HttpProtocol(H11Protocol):
    """Serves one connection, until it is a WebSocket's."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # The application may give an answer up that it has begun.
        super().__init__(config, server_state, app_state | {"give_up": self.give_up}, _loop)
        assert isinstance(config, ServerConfig), "its connections are counted"
        self._connections = config.connections
        self._is_for_health = False
        self._deadline: TimerHandle | None = None
        self._reading_deadline: TimerHandle | None = None
        self._num_bytes = 0
        """That have come since the deadline was set."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Decide whether it may stay."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        match self._connections.admit(transport, self.client[0] if self.client else ""):
            case Admitted.FULLY:
                self._await_request()
            case Admitted.FOR_HEALTH:
                logger.warning("the server is full: new connections may ask for its health only")
                self._is_for_health = True
                self.app = _for_health(self.app)
                self._await_request()
            case Admitted.NOT_NOW:
                logger.warning("the server is full: connections are refused")
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, _FULL)
            case Admitted.NOT_FROM_THERE:
                limit = self._connections.limits.per_address
                logger.warning("connections are refused: their address has %d already", limit)
                message = f"{limit} connections from your address are open already; close some"
                self._refuse(HTTPStatus.TOO_MANY_REQUESTS, message)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whichever side."""
        self._end_deadlines()
        self._connections.is_busy(self)
        self._connections.forget(self.transport)
        super().connection_lost(exc)

    def give_way(self) -> None:
        """Close it at once, and have it forgotten: a new one takes its place."""
        self._end_deadlines()
        self._connections.is_busy(self)
        self._connections.forget(self.transport)
        self.transport.abort()

    def give_up(self) -> None:
        """End an answer of which not all is sent: its client sees that it is not whole."""
        if self._is_answering:
            self.cycle.disconnected = True
        self._reset()

    # Requests

    def data_received(self, data: bytes) -> None:
        """Some of a request, or of several."""
        self._num_bytes += len(data)
        while data and self._is_awaiting_request:
            # In small parts: of headers that are whole, h11 takes any number at once.
            part, data = data[:PART_BYTES], data[PART_BYTES:]
            super().data_received(part)
            if self._is_answering:
                self._await_body()
        if data and self._is_answering:
            super().data_received(data)

    def on_response_complete(self) -> None:
        """An answer is sent; the next request may have come already."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close_soon()
        elif self._is_answering:
            self._await_body()
        else:
            self._await_request()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the WebSocket's protocol."""
        self._end_deadlines()
        self._connections.is_busy(self)
        super().handle_websocket_upgrade(event)

    def _should_upgrade(self) -> bool:
        return not self._is_for_health and super()._should_upgrade()

    @property
    def _is_awaiting_request(self) -> bool:
        is_ours = self.transport.get_protocol() is self and not self.transport.is_closing()
        return is_ours and not self._is_answering

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # Deadlines

    def _await_request(self) -> None:
        self._connections.is_quiet(self)
        self._set_deadline(REQUEST_SECONDS, self._request_is_late)

    def _request_is_late(self) -> None:
        if self._num_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
        else:
            self.transport.close()
            self._close_soon()

    def _await_body(self) -> None:
        self._connections.is_busy(self)
        if self.cycle.more_body:
            self._set_deadline(BODY_SECONDS, self._look_at_body)
        else:
            self._end_deadline()

    def _look_at_body(self) -> None:
        if not self._is_answering or not self.cycle.more_body:
            return
        # Where nothing is read, the server is what is slow.
        if self._num_bytes < MIN_BODY_BYTES and not self.flow.read_paused:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request's body does not come in time")
        else:
            self._set_deadline(BODY_SECONDS, self._look_at_body)

    def pause_writing(self) -> None:
        """The peer reads more slowly than it is sent to, or not at all."""
        super().pause_writing()
        self._reading_deadline = self.loop.call_later(READING_SECONDS, self._reset)

    def resume_writing(self) -> None:
        """It has read."""
        self._end_reading_deadline()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """No further request has come."""
        super().timeout_keep_alive_handler()
        self._close_soon()

    def _set_deadline(self, seconds: float, is_over: Callable[[], None]) -> None:
        self._end_deadline()
        self._num_bytes = 0
        self._deadline = self.loop.call_later(seconds, is_over)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_reading_deadline(self) -> None:
        if self._reading_deadline is not None:
            self._reading_deadline.cancel()
            self._reading_deadline = None

    def _end_deadlines(self) -> None:
        self._end_deadline()
        self._end_reading_deadline()

    # What the application has no part in

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer without the application, and close."""
        self._end_deadline()
        has_begun = False
        if self._is_answering:
            has_begun = self.cycle.response_started
            # What the application answers goes nowhere.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if has_begun:
            self.transport.abort()
            return
        body = f"{message}\n".encode()
        headers = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "X-Content-Type-Options: nosniff",
            f"Retry-After: {RETRY_SECONDS}",
            "Connection: close",
        ]
        self.transport.write("\r\n".join([*headers, "", ""]).encode() + body)
        self.transport.close()
        self._close_soon()

    def _close_soon(self) -> None:
        # A transport that is closed first sends what waits, for as long as the peer may take.
        if self.transport.get_write_buffer_size():
            self.loop.call_later(CLOSING_SECONDS, self._reset)

    def _reset(self) -> None:
        """Close it, and have the system forget at once what the peer does not read."""
        with suppress(OSError):  # it is closed already
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(_LINGER, 1, 0)
            )
        self.transport.abort()


def _for_health(app: Callable[..., Any]) -> Any:
    """An application that tells of the server's health, and of nothing else."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _HEALTH:
            await app(scope, receive, send)
            return
        headers = {"Retry-After": str(RETRY_SECONDS), "X-Content-Type-Options": "nosniff"}
        await PlainTextResponse(f"{_FULL}\n", 503, headers)(scope, receive, send)

    return answer
