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


class WorkTime(Time, Protocol):
    """A clock that tells work as well."""

    def worked(self) -> float:
        """Seconds that this thread has kept a processor at work; never goes back."""


class SystemTime:
    """The machine's time."""

    def now(self) -> float:
        """Seconds of a clock that is as fine as the machine's."""
        return time.perf_counter()

    def worked(self) -> float:
        """Seconds of work that other threads and programs add nothing to."""
        return time.thread_time()

    async def sleep(self, seconds: float) -> None:
        """Wait without keeping others from working."""
        await asyncio.sleep(seconds)
