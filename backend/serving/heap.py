"""Give back to the system what conversations that have ended had of its memory.

The C library keeps what was freed as long as anything that is still used lies behind it, and after
hours of conversations that is most of it. Here glibc is asked to give back whole pages:
https://man7.org/linux/man-pages/man3/malloc_trim.3.html
"""

import ctypes
import threading
import time
from collections.abc import Callable

PAUSE_SECONDS = 10.0
"""Between the end of a conversation and that, in which others may end too."""


class Heap:
    """Trims the heap a while after it was asked to, on a thread of its own.

    Args:
        trim: does it; None takes the C library's, and does nothing where that has none.
        pause_seconds: after which it is done.
    """

    def __init__(
        self, trim: Callable[[], object] | None = None, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._trim = trim or _malloc_trim()
        self._pause_seconds = pause_seconds
        self._is_asked = threading.Event()
        if self._trim is not None:
            threading.Thread(target=self._run, name="heap", daemon=True).start()

    def conversation_ended(self) -> None:
        """There is something to give back."""
        self._is_asked.set()

    def _run(self) -> None:
        assert self._trim is not None, "there is no thread without it"
        while True:
            self._is_asked.wait()
            time.sleep(self._pause_seconds)
            self._is_asked.clear()
            self._trim()


def _malloc_trim() -> Callable[[], object] | None:
    """None where the C library has no such function: elsewhere than in glibc."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    malloc_trim.argtypes = [ctypes.c_size_t]
    return lambda: malloc_trim(0)
