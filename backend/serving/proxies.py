"""Behind proxies: whose request it is, over what it came, and below which path it is served."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_SITE_BITS = 64
"""Of an IPv6 address, which one site has: the rest it may choose as it likes."""
_SCHEMES = {"http": {"http": "http", "https": "https"}, "websocket": {"http": "ws", "https": "wss"}}
_PREFIX = re.compile(r"(/[\w.~-]+)+")


def counted_as(address: str) -> str:
    """What connections from `address` are counted under: itself, or its site where it is IPv6."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _SITE_BITS), strict=False))
    return address if parsed is None else str(parsed)


def address_of(connection: HTTPConnection) -> str:
    """What a client's connections and work are counted under."""
    return counted_as(connection.client.host if connection.client else "")


class Proxies:
    """Addresses whose connections are many people's: this machine's, and those of proxies.

    Args:
        trusted: addresses and networks, with commas, or `*` for all.
    """

    def __init__(self, trusted: str | None = None) -> None:
        named = [name.strip() for name in (trusted or "").split(",")]
        self._are_all = "*" in named
        self._networks = [network for name in named if (network := _network(name)) is not None]

    def __contains__(self, address: str) -> bool:
        parsed = _parsed(address)
        if self._are_all or parsed is None:
            # Without an address it is a socket of this machine's.
            return True
        return parsed.is_loopback or self._is_named(parsed)

    def trust(self, address: str) -> bool:
        """Whether what a peer there says about whom it speaks for is believed."""
        parsed = _parsed(address)
        return self._are_all or (parsed is not None and self._is_named(parsed))

    def seen_by_nearest(self, forwarded_for: Sequence[str]) -> str | None:
        """The address that the nearest proxy saw that is trusted, and itself saw no trusted one.

        A proxy adds the address of its own peer at the end of the list; what stands before it may
        be a client's invention. Where all may be proxies, only the last entry is known.

        Args:
            forwarded_for: the values of `X-Forwarded-For`, in order.

        Returns:
            None where there is no such address.
        """
        entries = [entry for value in forwarded_for for entry in value.split(",")]
        seen = None
        for entry in reversed(entries):
            if (parsed := _parsed(_without_port(entry.strip()))) is None:
                break
            seen = seen or str(parsed)
            if self._are_all:
                break
            if not self._is_named(parsed):
                return str(parsed)
        return seen

    def _is_named(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


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


def _without_port(entry: str) -> str:
    """The address of `192.0.2.7:80` and `[2001:db8::7]:80`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None) or parsed


def _network(name: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(name, strict=False)
    except ValueError:
        return None
