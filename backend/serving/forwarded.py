"""Behind proxies: whose request it is, and over what it came, is what the nearest one says."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.serving.connection_limits import Proxies

_SCHEMES = {"http": {"http": "http", "https": "https"}, "websocket": {"http": "ws", "https": "wss"}}


class Forwarded:
    """An application that knows its clients, not the proxies that it trusts.

    Uvicorn's own does the same, but where every proxy is trusted it takes the address that is named
    first, which a client can invent.
    """

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put what the proxies say where ASGI wants it."""
        if schemes := _SCHEMES.get(scope["type"]):
            peer = (scope.get("client") or ("",))[0]
            if self._proxies.trust(peer):
                headers = Headers(scope=scope)
                stated = headers.get("x-forwarded-proto", "").strip()
                client = self._proxies.seen_by_nearest(headers.getlist("x-forwarded-for"))
                scope = {**scope, "scheme": schemes.get(stated, scope["scheme"])}
                if client is not None:
                    scope["client"] = (client, 0)
        await self._app(scope, receive, send)
