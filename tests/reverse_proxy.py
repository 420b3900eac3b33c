"""A reverse proxy with a path prefix, as nginx with `proxy_pass http://server/;`."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress


class _Proxy:
    def __init__(self, server: str, prefix: str) -> None:
        self._host, _, port = server.partition(":")
        self._port = int(port)
        self._prefix = prefix

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, which holds one request, or a WebSocket."""
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *headers = head.split("\r\n")[:-2]
            method, path, version = request.split()
            if re.match(f"{re.escape(self._prefix)}([/?]|$)", path) is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                return
            is_socket = any(header.lower() == "upgrade: websocket" for header in headers)
            if not is_socket:
                headers = [each for each in headers if not each.lower().startswith("connection:")]
                headers.append("Connection: close")
            headers.append(f"X-Forwarded-Prefix: {self._prefix}")
            inner_path = path.removeprefix(self._prefix)
            inner_path = inner_path if inner_path.startswith("/") else f"/{inner_path}"
            request = f"{method} {inner_path} {version}"
            upstream, to_server = await asyncio.open_connection(self._host, self._port)
            with closing(to_server):
                to_server.write("\r\n".join([request, *headers, "", ""]).encode())
                forth = asyncio.create_task(_pipe(reader, to_server))
                await _pipe(upstream, writer)
                forth.cancel()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()


@contextmanager
def reverse_proxy(server: str, prefix: str) -> Iterator[str]:
    """Serve `server` (`host:port`) below `prefix` while the block runs: `host:port/prefix`."""
    loop = asyncio.new_event_loop()
    started: list[asyncio.Server] = []
    is_started = threading.Event()

    async def run() -> None:
        listening = await asyncio.start_server(_Proxy(server, prefix).pass_on, "127.0.0.1", 0)
        started.append(listening)
        is_started.set()
        with suppress(asyncio.CancelledError):
            await listening.serve_forever()

    def serve() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=serve)
    thread.start()
    is_started.wait()
    try:
        yield f"127.0.0.1:{started[0].sockets[0].getsockname()[1]}{prefix}"
    finally:
        loop.call_soon_threadsafe(started[0].close)
        thread.join()
