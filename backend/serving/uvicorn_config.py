"""How uvicorn serves us: its configuration, with the count of connections and a quiet log."""

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Any

import uvicorn

from backend.serving.connection_limits import OpenConnections

logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""Between two warnings from the same line of code."""

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TALKATIVE = ("asyncio", "uvicorn.error", "backend.serving.http_protocol", __name__)
"""Loggers that strangers can make warn as often as they like."""


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
