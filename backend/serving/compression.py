"""What the page is made of, compressed: on a slow line it is there in a third of the time."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import lru_cache

import brotli
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TEXTS = ("text/", "application/javascript", "application/json", "image/svg+xml")
_QUALITY = 7
_SMALLEST = 512
"""Bytes; fewer would hardly become fewer."""
_MOST_KEPT = 256


class Compressed:
    """An application whose texts go out compressed, to those who take that.

    Each is compressed once, beside the event loop, and kept: use it for what is the same for all.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = Headers(scope=scope)
        accepted = headers.get("accept-encoding", "").split(",")
        takes_it = "br" in [part.split(";")[0].strip() for part in accepted]
        if not takes_it or scope.get("method") != "GET" or "range" in headers:
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, WholeAnswer(send, _packed).send)


Change = Callable[[bytes, MutableHeaders], Awaitable[bytes]]
"""Makes another body of one, and may change the headers for it."""


class WholeAnswer:
    """Keeps an answer until it is whole, and sends what was made of it."""

    def __init__(self, send: Send, change: Change) -> None:
        self._send = send
        self._change = change
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        """Take a message of the answer; others than whole texts pass as they are."""
        if message["type"] == "http.response.start" and _is_text(message):
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                headers = MutableHeaders(raw=self._start["headers"])
                body = await self._change(self._body, headers)
                headers["Content-Length"] = str(len(body))
                await self._send({**self._start, "headers": headers.raw})
                await self._send({"type": "http.response.body", "body": body})


async def _packed(body: bytes, headers: MutableHeaders) -> bytes:
    headers.add_vary_header("Accept-Encoding")
    if len(body) < _SMALLEST:
        return body
    headers["Content-Encoding"] = "br"
    # The same file in other bytes: that is what a weak tag means.
    if "etag" in headers and not headers["etag"].startswith("W/"):
        headers["ETag"] = f"W/{headers['etag']}"
    return await asyncio.to_thread(compressed, body)


def _is_text(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    is_text = headers.get("content-type", "").startswith(_TEXTS)
    return start["status"] == 200 and is_text and "content-encoding" not in headers


@lru_cache(maxsize=_MOST_KEPT)
def compressed(body: bytes) -> bytes:
    """Some bytes as Brotli; those that were asked for last are kept."""
    packed: bytes = brotli.compress(body, quality=_QUALITY)
    return packed
