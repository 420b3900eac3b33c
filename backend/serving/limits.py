"""How much there may be at once: connections, in all and from one address, and an address's work.

POSIX counts files and sockets as descriptors, of which a process may have so many.
"""

from asyncio import BaseTransport
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from cachetools import LRUCache
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.allowance import LoopShare, LoopTime, Shares, WaitingLine
from backend.config import CONNECTIONS_PER_ADDRESS
from backend.serving.proxies import Proxies, address_of, counted_as
from backend.timing import SystemTime, WorkTime

MAX_CONNECTIONS = 4096
"""In all; an idle one costs about 20 KB."""
MAX_SPARE = 16
"""Beyond all others, to ask for the server's health."""
_KEPT_BACK = 4
"""One in so many descriptors is for nothing but recordings, models and threads."""
DESCRIPTORS_EACH = 2
"""Descriptors: its own, and the file that it is being sent."""
_MAX_PER_ACCEPT = 128
MAX_DESCRIPTORS = 65_536
"""More are of no use to one process of ours."""
_OFFERS = (MAX_DESCRIPTORS, 10_240, 4_096)
"""What is asked for in turn: macOS sets a bound below the hard limit, and does not say which."""
REQUEST_SHARES = Shares(each=0.2, busy=0.3, saved_seconds=2.0)
"""The page with all its files, anew, takes a quarter of a second."""
REQUEST_SECONDS = 1e-3
"""To read a request and to send its answer, beside what is done for it."""
MAX_WAITING = 200
"""Requests of one address; further ones are refused."""
MAX_ADDRESSES = 10_000
"""That are remembered, those that were heard of last."""
RETRY_SECONDS = 10

_TOO_MANY = "too many requests come from your address; try again in a moment\n"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections may be open."""

    total: int = MAX_CONNECTIONS
    spare: int = MAX_SPARE
    per_address: int = CONNECTIONS_PER_ADDRESS
    per_accept: int = _MAX_PER_ACCEPT
    """Taken from the system's queue, and waiting in it, at once: they are counted only then."""

    @classmethod
    def within(
        cls, num_descriptors: int | None, per_address: int = CONNECTIONS_PER_ADDRESS
    ) -> "ConnectionLimits":
        """Those that leave some of the descriptors for other things; None for no limit of them."""
        if num_descriptors is None:
            return cls(per_address=per_address)
        kept_back = num_descriptors // _KEPT_BACK
        return cls(
            total=min(MAX_CONNECTIONS, (num_descriptors - kept_back) // DESCRIPTORS_EACH),
            spare=min(MAX_SPARE, kept_back // 4),
            per_address=per_address,
            per_accept=max(1, min(_MAX_PER_ACCEPT, kept_back // 4)),
        )


class Admitted(Enum):
    """What a new connection may do."""

    FULLY = auto()
    FOR_HEALTH = auto()
    """The server is full: only its health may be asked for."""
    NOT_NOW = auto()
    """Refused: the server is so full that not even that can be asked."""
    NOT_FROM_THERE = auto()
    """Refused: too many from this address are open already."""


class Quiet(Protocol):
    """A connection between two requests, or before its first."""

    def give_way(self) -> None:
        """Close it at once, and have it forgotten: a new one takes its place."""


class OpenConnections:
    """Keeps count, and makes room.

    Connections without a request give way to new ones, those that have been so for longest first:
    who has something to say says it at once.
    """

    def __init__(self, limits: ConnectionLimits, proxies: Proxies) -> None:
        self.limits = limits
        self._proxies = proxies
        self._places: dict[BaseTransport, str] = {}
        self._num_from: Counter[str] = Counter()
        self._quiet: dict[Quiet, None] = {}

    def admit(self, transport: BaseTransport, address: str) -> Admitted:
        """Decide on a new connection, and count it if it may stay."""
        place = counted_as(address)
        if self._num_from[place] >= self.limits.per_address and address not in self._proxies:
            return Admitted.NOT_FROM_THERE
        if len(self._places) >= self.limits.total and self._quiet:
            next(iter(self._quiet)).give_way()
        num_over = len(self._places) + 1 - self.limits.total
        if num_over > self.limits.spare:
            return Admitted.NOT_NOW
        self._places[transport] = place
        self._num_from[place] += 1
        return Admitted.FULLY if num_over <= 0 else Admitted.FOR_HEALTH

    def forget(self, transport: BaseTransport) -> None:
        """It is closed."""
        place = self._places.pop(transport, None)
        if place is not None:
            self._num_from[place] -= 1
            if not self._num_from[place]:
                del self._num_from[place]

    def is_quiet(self, connection: Quiet) -> None:
        """It has no request any more, or not yet."""
        self._quiet.pop(connection, None)
        self._quiet[connection] = None

    def is_busy(self, connection: Quiet) -> None:
        """It has one, or is closed."""
        self._quiet.pop(connection, None)


def descriptor_limit() -> int | None:
    """How many may be open at once; None where none is set, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Raise the soft limit towards the hard one, as far as the system lets us."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    for offer in _OFFERS:
        wanted = offer if hard == resource.RLIM_INFINITY else min(offer, hard)
        if wanted <= soft:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        return


class RequestAllowance:
    """An application whose requests wait where their address has taken more than its share."""

    def __init__(self, app: ASGIApp, time: WorkTime | None = None) -> None:
        self._app = app
        self._loop_time = LoopTime(time or SystemTime(), REQUEST_SHARES)
        self._from: LRUCache[str, _RequestsFrom] = LRUCache(MAX_ADDRESSES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in its turn; a socket has a share of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = address_of(HTTPConnection(scope))
        if (requests := self._from.get(address)) is None:
            requests = self._from[address] = _RequestsFrom(self._loop_time.share())
        if requests.line.is_full:
            headers = {"Retry-After": str(RETRY_SECONDS)}
            await PlainTextResponse(_TOO_MANY, 429, headers)(scope, receive, send)
            return
        async with requests.line.turn():
            await requests.share.settle()
        requests.share.charge(REQUEST_SECONDS)
        await requests.share.run(self._answer, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _RequestsFrom:
    """Those of one address."""

    def __init__(self, share: LoopShare) -> None:
        self.share = share
        self.line = WaitingLine(MAX_WAITING)
