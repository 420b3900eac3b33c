"""The page's routes: what of Gradio's application can be reached, and by whom.

What is not named here is not there, whatever Gradio brings along.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import brotli
from cachetools import LRUCache
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.serving.access import OwnPagesOnly, is_host
from backend.serving.page_engine import PageEngine
from webui.bundling import STATIC_FOLDER, bundled
from webui.gradio_app import ASSETS_FOLDER, FILES, RENDERED, preloads, preview

_TEXTS = ("text/", "application/javascript", "application/json", "image/svg+xml")
_QUALITY = 7
_SMALLEST = 512
"""Bytes; fewer would hardly become fewer."""
_MOST_KEPT = 256
_MOST_ADDRESSES = 64
"""Under which the page is asked for; each takes 100 kB."""
_PREVIEW_OF_GRADIO = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>')
_NAMING_HOSTS = ("host", "x-forwarded-host")
_SHOWN = frozenset((b"host", b"x-forwarded-host", b"x-forwarded-proto"))


# All that a page names is below its address; a proxy may let a visitor in without the slash.
GO_TO_SLASH = (
    b"<script>if (!location.pathname.endsWith('/')) "
    b"location.replace(`${location.pathname}/${location.search}${location.hash}`);</script>"
)


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


class CachedFiles(StaticFiles):
    """Files, and for how long browsers may use them without asking.

    Args:
        directory: where they are.
        cache_control: the header that says so.
        instead: folders whose files are served in place of those with the same names.
    """

    def __init__(self, directory: Path, cache_control: str, instead: Sequence[Path] = ()) -> None:
        super().__init__(directory=directory)
        self.all_directories = [*instead, *self.all_directories]
        self._cache_control = cache_control

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, with the header."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = self._cache_control
        return response


class Rendered:
    """What Gradio makes of the address under which it is asked for, and of nothing else.

    Of a query, cookies and other headers it would take orders: to compress on the event loop, to
    look for files, to fail. It is made once for each address: that takes milliseconds of the loop.
    """

    def __init__(self, gradio: ASGIApp, head: str = "") -> None:
        """`head` is put at the end of the page's own."""
        self._gradio = gradio
        self._head = head.encode()
        self._made: LRUCache[Hashable, list[Message]] = LRUCache(_MOST_ADDRESSES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, if the address is one."""
        given = [Headers(scope=scope).get(name, "") for name in _NAMING_HOSTS]
        hosts = [host.strip() for header in given for host in header.split(",") if host.strip()]
        if not all(map(is_host, hosts)):
            response = PlainTextResponse("the Host or X-Forwarded-Host header names no host\n", 400)
            await response(scope, receive, send)
            return
        shown = [(name, value) for name, value in scope["headers"] if name in _SHOWN]
        address = _address(scope, hosts)
        wanted = (scope["method"], scope["path"], address, frozenset(shown))
        if (made := self._made.get(wanted)) is None:
            made = []
            bare = {**scope, "query_string": b"", "headers": shown}
            await self._make(bare, receive, partial(self._with_head, address), made)
            if any(message.get("status") == 200 for message in made):
                self._made[wanted] = made
        for message in made:
            # What sends it adds to its headers.
            own = {"headers": list(message["headers"])} if "headers" in message else {}
            await send({**message, **own})

    async def _make(
        self, scope: Scope, receive: Receive, change: Change, made: list[Message]
    ) -> None:
        async def keep(message: Message) -> None:
            made.append(message)

        whole = WholeAnswer(keep, change).send
        await self._gradio(scope, receive, whole if scope["method"] == "GET" else keep)

    async def _with_head(self, address: str, body: bytes, headers: MutableHeaders) -> bytes:
        if not headers.get("content-type", "").startswith("text/html"):
            return body
        # Before the page's own data, in which anything may be.
        head, end, rest = body.partition(b"</head>")
        head = _PREVIEW_OF_GRADIO.sub(b"", head).replace(b"<head>", b"<head>" + GO_TO_SLASH, 1)
        return head + preview(address).encode() + self._head + end + rest


def page_routes(gradio: ASGIApp, own_hosts: Sequence[str]) -> list[BaseRoute]:
    """Every route of the page, for anybody but pages from elsewhere.

    Args:
        gradio: Gradio's application, whole.
        own_hosts: more hosts that the page may come from.
    """

    def for_anybody(app: ASGIApp) -> ASGIApp:
        return OwnPagesOnly(Compressed(app), own_hosts)

    # Asked about each time, so that no page mixes two versions of them.
    page_files = CachedFiles(STATIC_FOLDER, "no-cache", bundled(STATIC_FOLDER))
    # Their names change with their content: browsers fetch each once.
    assets = CachedFiles(ASSETS_FOLDER, "public, max-age=31536000, immutable")
    rendered = for_anybody(Rendered(gradio, "".join(preloads())))
    return [
        *(Route(path, rendered, methods=["GET"]) for path in RENDERED),
        *(Route(path, for_anybody(_file(file)), methods=["GET"]) for path, file in FILES.items()),
        Mount("/assets", for_anybody(assets), name="assets"),
        Mount("/live/engine/built", OwnPagesOnly(PageEngine(), own_hosts), name="engine"),
        Mount("/live", for_anybody(page_files), name="live"),
    ]


def _address(scope: Scope, hosts: list[str]) -> str:
    """Where the page is for its visitor, who asked the first proxy; `hosts` begins with `Host`."""
    stated = Headers(scope=scope).get("x-forwarded-proto", "")
    scheme = stated if stated in ("http", "https") else scope["scheme"]
    host = next(iter(hosts[1:2] or hosts), "localhost")
    return f"{scheme}://{host}{scope.get('root_path', '')}/"


def _file(path: Path) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await FileResponse(path)(scope, receive, send)

    return answer
