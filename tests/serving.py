"""A real server on a free port, for tests that talk to it as clients do."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from backend.engine import Engine
from backend.serving.process import ServingOptions, uvicorn_config
from backend.serving.server import create_app
from tests.scripted import ScriptedEngine

START_SECONDS = 60.0
FREE_SECONDS = 60.0


@contextmanager
def serving(
    engine: Engine | ScriptedEngine,
    around: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    options: ServingOptions | None = None,
    port: int = 0,
) -> Iterator[str]:
    """Serve `engine`, `around` between it and its clients, while the block runs: `host:port`."""
    options = options or ServingOptions()
    app = create_app(cast(Engine, engine), options)
    config = uvicorn_config(app, "127.0.0.1", port, options)
    config.app = around(cast(ASGIApp, config.app))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"127.0.0.1:{_port(server)}"
    finally:
        server.should_exit = True
        thread.join()


def _port(server: uvicorn.Server) -> int:
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


def wait_until_free(engine: Engine | ScriptedEngine) -> None:
    """Wait until every conversation's slot has been freed."""
    deadline = time.monotonic() + FREE_SECONDS
    while engine.num_sessions:
        assert time.monotonic() < deadline, "a slot was not freed"
        time.sleep(0.01)
