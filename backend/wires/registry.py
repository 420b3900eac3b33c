"""The wires that a server offers, each under a path of its own."""

import re

from backend.wires.decisions import Decisions
from backend.wires.live.sideband import LiveSideband
from backend.wires.live.wire import LiveFork, LiveSessions
from backend.wires.realtime.wire import Realtime
from backend.wires.wire import WireKind

WIRES: tuple[WireKind, ...] = (
    Realtime(),
    LiveSessions(),
    LiveSideband(),
    LiveFork(),
    Decisions(),
)


def wire_at(path: str) -> WireKind:
    """The wire whose clients connect at a path, whatever stands before it."""
    return next(kind for kind in WIRES if _pattern(kind).search(path))


def _pattern(kind: WireKind) -> re.Pattern[str]:
    return re.compile(re.sub(r"{\w+}", "[^/]+", kind.path) + "$")
