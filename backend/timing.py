"""Time as conversations and sockets see it: injected, so that tests need none of it."""

import asyncio
import time
from typing import Protocol


class Time(Protocol):
    """A clock, and a way to wait by it."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemTime:
    """The machine's time."""

    def now(self) -> float:
        """Seconds of a clock that is as fine as the machine's."""
        return time.perf_counter()

    async def sleep(self, seconds: float) -> None:
        """Wait without keeping others from working."""
        await asyncio.sleep(seconds)
