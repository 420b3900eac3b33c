"""How many connections may be open: in all, so that descriptors are left, and from one address."""

from asyncio import BaseTransport
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Protocol

MAX_CONNECTIONS = 4096
"""In all; an idle one costs about 20 KB."""
MAX_PER_ADDRESS = 256
"""From one address: a few dozen browsers behind one router, with six or so each."""
MAX_SPARE = 16
"""Beyond all others, to ask for the server's health."""
_KEPT_BACK = 4
"""One in so many descriptors is for nothing but recordings, models and threads."""
DESCRIPTORS_EACH = 2
"""Descriptors: its own, and the file that it is being sent."""
_MAX_PER_ACCEPT = 128
_SITE_BITS = 64
"""Of an IPv6 address, which one site has: the rest it may choose as it likes."""


def counted_as(address: str) -> str:
    """What connections from `address` are counted under: itself, or its site where it is IPv6."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _SITE_BITS), strict=False))
    return address if parsed is None else str(parsed)


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


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections may be open."""

    total: int = MAX_CONNECTIONS
    spare: int = MAX_SPARE
    per_address: int = MAX_PER_ADDRESS
    per_accept: int = _MAX_PER_ACCEPT
    """Taken from the system's queue, and waiting in it, at once: they are counted only then."""

    @classmethod
    def within(
        cls, num_descriptors: int | None, per_address: int = MAX_PER_ADDRESS
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
