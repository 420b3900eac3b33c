"""Served below a path of another server, as https://example.org/voice/."""

import re

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = re.compile(r"(/[\w.~-]+)+")


class Prefixed:
    """An application that knows the path below which a proxy serves it, by `X-Forwarded-Prefix`.

    Our own pages name everything relative to themselves and need none of it; Gradio names its
    style sheets by whole addresses. Whoever sends another prefix gets a broken page, alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the prefix where ASGI wants it, whether or not the proxy has taken it off."""
        if scope["type"] in ("http", "websocket"):
            prefix = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
            if _PREFIX.fullmatch(prefix):
                path: str = scope["path"]
                if path == prefix and scope["type"] == "http":
                    # All that the page names is below its address.
                    await RedirectResponse(f"{prefix}/", 308)(scope, receive, send)
                    return
                if not path.startswith(f"{prefix}/"):
                    path = prefix + path
                scope = {**scope, "root_path": prefix, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
