"""The page's routes: what of Gradio's application can be reached, and by whom.

What is not named here is not there, whatever Gradio brings along.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.serving.access import OwnPagesOnly, is_host
from backend.serving.compression import Compressed, WholeAnswer
from webui.bundling import bundled
from webui.gradio_app import ASSETS_FOLDER, FILES, RENDERED, STATIC_FOLDER, preloads, preview

_PREVIEW_OF_GRADIO = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>')
_NAMING_HOSTS = ("host", "x-forwarded-host")
_SHOWN = frozenset((b"host", b"x-forwarded-host", b"x-forwarded-proto"))


# All that a page names is below its address; a proxy may let a visitor in without the slash.
GO_TO_SLASH = (
    b"<script>if (!location.pathname.endsWith('/')) "
    b"location.replace(`${location.pathname}/${location.search}${location.hash}`);</script>"
)


class RevalidatedFiles(StaticFiles):
    """Files that browsers ask about each time, so that no page mixes two versions of them.

    Those of `instead` are served in place of those of `directory` with the same names.
    """

    def __init__(self, directory: Path, instead: Sequence[Path] = ()) -> None:
        super().__init__(directory=directory)
        self.all_directories = [*instead, *self.all_directories]

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, not to be used again without asking."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


class LastingFiles(StaticFiles):
    """Files whose names change with their content: browsers fetch each once."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, to be used again for a year."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


class Rendered:
    """What Gradio makes of the address under which it is asked for, and of nothing else.

    Of a query, cookies and other headers it would take orders: to compress on the event loop, to
    look for files, to fail.
    """

    def __init__(self, gradio: ASGIApp, head: str = "") -> None:
        """`head` is put at the end of the page's own."""
        self._gradio = gradio
        self._head = head.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, if the address is one."""
        given = [Headers(scope=scope).get(name, "") for name in _NAMING_HOSTS]
        hosts = [host.strip() for header in given for host in header.split(",") if host.strip()]
        if not all(map(is_host, hosts)):
            response = PlainTextResponse("the Host or X-Forwarded-Host header names no host\n", 400)
            await response(scope, receive, send)
            return
        shown = [(name, value) for name, value in scope["headers"] if name in _SHOWN]
        if scope.get("method") == "GET":
            send = WholeAnswer(send, partial(self._with_head, _address(scope, hosts))).send
        await self._gradio({**scope, "query_string": b"", "headers": shown}, receive, send)

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

    page_files = RevalidatedFiles(STATIC_FOLDER, bundled(STATIC_FOLDER))
    rendered = for_anybody(Rendered(gradio, "".join(preloads())))
    return [
        *(Route(path, rendered, methods=["GET"]) for path in RENDERED),
        *(Route(path, for_anybody(_file(file)), methods=["GET"]) for path, file in FILES.items()),
        Mount("/assets", for_anybody(LastingFiles(directory=ASSETS_FOLDER)), name="assets"),
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
