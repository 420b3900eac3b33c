"""Finds out that a thread hangs: in a driver that waits for a broken device, say."""

import sys
import threading
import traceback
from collections.abc import Callable

LOOKS = 20
"""So often a thread is looked at before it is taken to hang."""


def watch(
    work: Callable[[], object | None],
    patience_seconds: float,
    has_ended: threading.Event,
    on_hang: Callable[[], None],
) -> None:
    """Call `on_hang`, once, if a piece of work takes too long; returns then, or at the end.

    Args:
        work: what the thread is at, another object for each piece of work; None while it waits.
        patience_seconds: how long a piece may take.
        has_ended: is set when there is nothing to be watched any more.
        on_hang: is told.
    """
    seen, num_looks = None, 0
    # In looks, and not by the clock: the whole process may have been halted for a while.
    while not has_ended.wait(patience_seconds / LOOKS):
        now = work()
        num_looks = num_looks + 1 if now is not None and now is seen else 0
        seen = now
        if num_looks >= LOOKS:
            on_hang()
            return


def where(thread: threading.Thread) -> str:
    """Where in its code a thread is, for a log."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame is not None else "it is gone"
