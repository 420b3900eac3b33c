"""Time as conversations and sockets see it: injected, so that tests need none of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Protocol

NOTICE_SECONDS = 60.0
"""Before the end, or half of the limit where that is less."""


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


class ContinuedTime:
    """A clock that goes on where another one, perhaps of another machine, had come to `now`."""

    def __init__(self, time: Time, now: float) -> None:
        self._time = time
        self._ahead_seconds = time.now() - now

    def now(self) -> float:
        """Seconds of the clock that is gone on with."""
        return self._time.now() - self._ahead_seconds

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._time.sleep(seconds)


class IdleWatch:
    """Counts the time since the client or the model last did anything.

    Args:
        limit_seconds: of quiet that end a conversation.
    """

    def __init__(self, limit_seconds: float, time: Time) -> None:
        self._limit_seconds = limit_seconds
        self._time = time
        self._last_activity_at = time.now()
        self._has_given_notice = False

    def activity(self) -> bool:
        """Start to count anew; whether a notice that was given is thereby taken back."""
        self._last_activity_at = self._time.now()
        takes_back, self._has_given_notice = self._has_given_notice, False
        return takes_back

    async def notices(self) -> AsyncIterator[float]:
        """The seconds that are left, each time that notice is due; ends when none is left."""
        notice_seconds = min(NOTICE_SECONDS, self._limit_seconds / 2)
        while (left := self._seconds_left()) > 0:
            if left > notice_seconds:
                await self._time.sleep(left - notice_seconds)
                continue
            if not self._has_given_notice:
                self._has_given_notice = True
                yield left
            await self._time.sleep(left)

    def _seconds_left(self) -> float:
        return self._last_activity_at + self._limit_seconds - self._time.now()
