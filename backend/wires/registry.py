"""The wires that a server offers, each under a path of its own."""

import re

from backend.wires.decisions import DECISIONS
from backend.wires.live.sideband import LIVE_SIDEBAND
from backend.wires.live.wire import LIVE, LIVE_FORK
from backend.wires.realtime.wire import REALTIME
from backend.wires.wire import WireKind

WIRES: tuple[WireKind, ...] = (REALTIME, LIVE, LIVE_SIDEBAND, LIVE_FORK, DECISIONS)


def wire_at(path: str) -> WireKind:
    """The wire whose clients connect at a path, whatever stands before it."""
    return next(kind for kind in WIRES if _pattern(kind).search(path))


def _pattern(kind: WireKind) -> re.Pattern[str]:
    return re.compile(re.sub(r"{\w+}", "[^/]+", kind.path) + "$")
