"""The wires that a server offers, each under a path of its own."""

from backend.wires.realtime.wire import Realtime
from backend.wires.wire import WireKind

WIRES: tuple[WireKind, ...] = (Realtime(),)


def wire_at(path: str) -> WireKind:
    """The wire whose clients connect at a path, whatever stands before it."""
    return next(kind for kind in WIRES if path.endswith(kind.path))
