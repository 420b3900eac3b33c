"""Who may connect: our own page, those who know the key, not too many from one address."""

import base64
import binascii
import re
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from backend.errors import SettingsError
from backend.serving.keys import ClientSecret, ClientSecrets, Guesses
from backend.serving.proxies import address_of
from backend.timing import Time
from backend.wires.errors import CloseCode, ConnectionEnd, WireError

SUBPROTOCOL = "realtime"
MAX_SOCKETS_PER_ADDRESS = 64
"""Open at the same time; generous, as behind a proxy that is not trusted all share one address."""

_KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""What OpenAI's clients put before a key; browsers allow few signs in it, `/` and `=` not."""
_ENCODED_KEY_SUBPROTOCOL = "base64url.bearer.authorization."
"""What our page puts before one with others, in base64 for addresses."""
_KEY = re.compile(r"[!-~]([ -~]{0,1022}[!-~])?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)
_MAX_NAME_CHARACTERS = 253


class Doorkeeper:
    """Lets sockets and requests in.

    Args:
        access_key: what a client has to know; None lets everybody in.
        own_hosts: more hosts that our own page may come from, or be asked for by.
        time: by which wrong keys have to wait; None for the machine's.
    """

    def __init__(
        self,
        access_key: str | None = None,
        max_per_address: int = MAX_SOCKETS_PER_ADDRESS,
        own_hosts: Sequence[str] = (),
        time: Time | None = None,
    ) -> None:
        self._access_key = access_key
        self._guesses = Guesses(time)
        self.own_hosts = own_hosts
        self._max_per_address = max_per_address
        self._num_sockets: Counter[str] = Counter()
        self.secrets = ClientSecrets()
        """Stand for the access key with sockets, for a while."""

    @property
    def requires_key(self) -> bool:
        """Whether a client has to know the access key."""
        return self._access_key is not None

    @asynccontextmanager
    async def admit(
        self, connection: HTTPConnection, *, needs_key: bool = True
    ) -> AsyncIterator[None]:
        """Keep count of a socket or request while the block runs.

        Where wrong keys came from its address, it waits before its own is looked at.

        Raises:
            ConnectionEnd: it may not connect.
        """
        # With a short-lived key its page may be anybody's: who knows the key has sent it here.
        if self._secret(connection) is None:
            if needs_key and self._access_key is not None:
                await self._guesses.wait(address_of(connection))
            _require_own_page(connection.headers, self.own_hosts)
            may_be_a_page = "origin" in connection.headers or connection.scope["type"] == "http"
            # A page from elsewhere does not know the key.
            if may_be_a_page and self._access_key is None:
                _require_own_host(connection.headers, self.own_hosts)
            if needs_key:
                self._require_key(connection)
        with self._counted(connection):
            yield

    async def with_key(self, request: Request) -> AsyncIterator[None]:
        """As `admit`, for routes: on the event loop, where sockets are counted as well."""
        async with self.admit(request):
            yield

    async def without_key(self, request: Request) -> AsyncIterator[None]:
        """The same for what is not secret."""
        async with self.admit(request, needs_key=False):
            yield

    def session_of(self, connection: HTTPConnection) -> Mapping[str, Any]:
        """The settings that a client's short-lived key stands for."""
        secret = self._secret(connection)
        return secret.session if secret else {}

    def _secret(self, connection: HTTPConnection) -> ClientSecret | None:
        if connection.scope["type"] != "websocket":
            return None
        offered = offered_key(connection.headers, connection.scope.get("subprotocols", []))
        return self.secrets.find(offered)

    @contextmanager
    def _counted(self, connection: HTTPConnection) -> Iterator[None]:
        address = address_of(connection)
        if self._num_sockets[address] >= self._max_per_address:
            error = WireError(
                f"{self._max_per_address} connections from {address} are open already; close one",
                "too_many_connections",
            )
            raise ConnectionEnd(error, CloseCode.POLICY)
        self._num_sockets[address] += 1
        try:
            yield
        finally:
            self._num_sockets[address] -= 1
            # Addresses that have gone are not remembered.
            self._num_sockets += Counter()

    def _require_key(self, connection: HTTPConnection) -> None:
        if self._access_key is None:
            return
        offered = offered_key(connection.headers, connection.scope.get("subprotocols", []))
        if not secrets.compare_digest(offered.encode(), self._access_key.encode()):
            if offered:
                self._guesses.count(address_of(connection))
            error = WireError(
                "this server asks for an access key, and this is not it"
                if offered
                else "this server asks for an access key",
                "invalid_api_key",
            )
            raise ConnectionEnd(error, CloseCode.UNAUTHORIZED)


def require_usable_key(access_key: str) -> None:
    """Refuse a key that not every client can send.

    Raises:
        SettingsError: it is one.
    """
    if not _KEY.fullmatch(access_key):
        raise SettingsError(
            "an access key has 1 to 1024 letters, digits and signs of ASCII, and no space at its "
            "ends: not every client can send others"
        )


class SecurityHeaders:
    """An application whose answers say what browsers may make of them.

    Pages show up in frames of our own pages and of `framed_by` only: others could lay something
    over them and have their visitors press our buttons unseen. Everything is what its media type
    says, and no script because it looks like one.

    Args:
        framed_by: origins, as in `https://example.org`.
    """

    def __init__(self, app: ASGIApp, framed_by: Sequence[str] = ()) -> None:
        self._app = app
        self._policy = " ".join(["frame-ancestors 'self'", *framed_by])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to every answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                headers.append("Content-Security-Policy", self._policy)
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, send_with_headers)


class OwnPagesOnly:
    """An application of files that anybody may read, but no page from elsewhere may use.

    Where the browser says that our own page asks, it is believed: behind a proxy that hides our
    address, the page has to be there to say so.
    """

    def __init__(self, app: ASGIApp, own_hosts: Sequence[str] = ()) -> None:
        self._app = app
        self._own_hosts = own_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, if no page from elsewhere asks.

        Raises:
            ConnectionEnd: one does.
        """
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if headers.get("sec-fetch-site") != "same-origin":
            _require_own_page(headers, self._own_hosts)
        await self._app(scope, receive, send)


class BehindDoorkeeper:
    """An application for those whom the doorkeeper lets in."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper) -> None:
        self._app = app
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer those who may connect.

        Raises:
            ConnectionEnd: it is somebody else.
        """
        async with self._doorkeeper.admit(HTTPConnection(scope)):
            await self._app(scope, receive, send)


def offered_key(headers: Headers, subprotocols: Sequence[str]) -> str:
    """The key that a client gives: in a header, or, as browsers can give none, a subprotocol."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    for subprotocol in subprotocols:
        if subprotocol.startswith(_KEY_SUBPROTOCOL):
            return subprotocol.removeprefix(_KEY_SUBPROTOCOL)
        if subprotocol.startswith(_ENCODED_KEY_SUBPROTOCOL):
            return _decoded(subprotocol.removeprefix(_ENCODED_KEY_SUBPROTOCOL))
    return ""


def _decoded(text: str) -> str:
    """What was put into base64 without its padding; nothing where it is none."""
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.urlsafe_b64decode(padded.encode()).decode()
    except (binascii.Error, ValueError):
        return ""


def is_same_origin(headers: Headers, own_hosts: Sequence[str] = ()) -> bool:
    """Whether a request comes from our own page, or from no page at all.

    A page from elsewhere must not talk to a visitor's local server. Browsers always send
    `Origin` with a WebSocket and let no page change it or add headers, so a proxy's
    `X-Forwarded-Host` can be believed here.
    """
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, _, _ = origin.partition("://")
    forwarded = headers.get("x-forwarded-host", "").split(",")
    hosts = [headers.get("host", ""), *forwarded, *own_hosts]
    ours = {_host_and_port(f"{scheme}://{host.strip()}") for host in hosts}
    return _host_and_port(origin) in ours - {None}


def is_part_of_another_page(headers: Headers) -> bool:
    """Whether a browser says that a page from elsewhere wants this as a part of itself.

    As with an `<img>`, for which it sends no `Origin`. Links and frames are navigations: those may
    lead here, and `SecurityHeaders` says into whose frames.
    https://www.w3.org/TR/fetch-metadata/
    """
    is_elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return is_elsewhere and headers.get("sec-fetch-mode") != "navigate"


def _require_own_page(headers: Headers, own_hosts: Sequence[str]) -> None:
    """Let no page from elsewhere in.

    Raises:
        ConnectionEnd: it is one.
    """
    if not is_same_origin(headers, own_hosts) or is_part_of_another_page(headers):
        error = WireError(
            f"a page from {headers.get('origin', 'elsewhere')[:200]} may not connect to "
            f"{headers.get('host', '')[:200]}; open the page from this server, or have the proxy "
            "in front of it pass the Host or X-Forwarded-Host header",
            "origin_not_allowed",
        )
        raise ConnectionEnd(error, CloseCode.POLICY)


def may_be_rebound(headers: Headers, own_hosts: Sequence[str] = ()) -> bool:
    """Whether a page from elsewhere may have given its own host our address.

    Such a page is of the same origin for its browser and for `is_same_origin` (DNS rebinding). It
    cannot do so with an address, with `localhost` or with a name that is not its own, nor over
    https, as it has no certificate for us. Only over https, or to a local name, do browsers say
    where a request comes from (`Sec-Fetch-Site`), and no page can.
    """
    if "sec-fetch-site" in headers or headers.get("origin", "").startswith("https://"):
        return False
    asked_for = _host_and_port(f"http://{headers.get('host', '')}")
    if asked_for is None:
        return True
    name = asked_for[0].rstrip(".")
    machine = socket.gethostname().lower()
    ours = {"localhost", machine, f"{machine}.local", *map(_name, own_hosts)}
    return not (name in ours or name.endswith(".localhost") or _is_address(name))


def _require_own_host(headers: Headers, own_hosts: Sequence[str]) -> None:
    """Let nobody in who asks for a host that may be a foreign page's.

    Raises:
        ConnectionEnd: somebody does.
    """
    if may_be_rebound(headers, own_hosts):
        host = headers.get("host", "")[:200]
        error = WireError(
            f"this server does not know that it is {host!r}: open it by its address, by https or "
            "as localhost, or start it with --host-name and that name",
            "origin_not_allowed",
        )
        raise ConnectionEnd(error, CloseCode.POLICY)


def is_host(text: str) -> bool:
    """Whether it is a name or an address, with or without a port, as in a `Host` header."""
    parts = _host_and_port(f"http://{text}")
    if parts is None or len(name := parts[0]) > _MAX_NAME_CHARACTERS:
        return False
    return _NAME.fullmatch(name) is not None or _is_address(name)


def _name(host: str) -> str | None:
    parts = _host_and_port(f"http://{host}")
    return parts[0] if parts else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _host_and_port(url: str) -> tuple[str, int | None] | None:
    """Host and port of an address; None where it names no host."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None
