"""How much one socket may send and have done: what is more waits, and nothing of it is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, TypeVarTuple

from backend.timing import Time, WorkTime

Given = TypeVarTuple("Given")
Answer = TypeVar("Answer")

SOCKET_SHARE = 0.1
"""Of the event loop's time, for one socket: to hear somebody in real time takes a hundredth."""
BUSY_SOCKETS_SHARE = 0.3
"""For all together that want more than theirs."""
SAVED_SECONDS = 0.1
"""Of the event loop's time, that a socket may have saved up."""
MESSAGE_SECONDS = 50e-6
"""To receive a message, beside what is done for it."""
LEAST_SECONDS = 1e-6
"""For less nobody waits."""
LONGEST_STEP_SECONDS = 0.1
"""For more nobody pays: it is a library that is loaded, once in the life of a process."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How the event loop's time is shared."""

    each: float = SOCKET_SHARE
    """Of it, for one."""
    busy: float = BUSY_SOCKETS_SHARE
    """For all together that want more than theirs."""
    saved_seconds: float = SAVED_SECONDS
    """That one may have saved up."""


class WaitingLine:
    """Lets one at a time do something, in the order in which they came. Of one event loop.

    Args:
        most: that may be there at once; whether there is room is for who comes to ask.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._num_there = 0
        self._lock = asyncio.Lock()

    @property
    def is_full(self) -> bool:
        """Whether as many are there as may be."""
        return self._num_there >= self._most

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for those who came before; the next one's turn comes after the block."""
        self._num_there += 1
        try:
            async with self._lock:
                yield
        finally:
            self._num_there -= 1


class TokenBucket:
    """An amount per second, and a burst that may be saved up.

    Args:
        per_second: what comes in.
        burst: what there is at most, and at first.
    """

    def __init__(self, per_second: float, burst: float, time: Time) -> None:
        self._per_second = per_second
        self._burst = burst
        self._time = time
        self._level = burst
        self._filled_at = time.now()

    async def take(self, amount: float) -> None:
        """Take `amount`, and wait until what was taken too early has come in."""
        # Without a debt too: one who sends without a pause leaves time for the others.
        await self._time.sleep(self.charge(amount))

    def charge(self, amount: float) -> float:
        """Take `amount`, there or not; the seconds until what was taken too early has come in."""
        self._level = self._filled_level() - amount
        return max(0.0, -self._level / self._per_second)

    def take_now(self, amount: float) -> bool:
        """Take `amount` if it is there; whether it was."""
        self._level = self._filled_level()
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def _filled_level(self) -> float:
        now = self._time.now()
        gained = (now - self._filled_at) * self._per_second
        self._filled_at = now
        return min(self._burst, self._level + gained)


class LoopTime:
    """The time of the event loop that the sockets of a server share.

    Everything that is done for one of them keeps the loop from all others, and the loop's thread
    keeps the engine's from its work. So each may take its share, by the work that was really done
    for it and not by the number of its messages.
    """

    def __init__(self, time: WorkTime, shares: Shares | None = None) -> None:
        self.time = time
        self.shares = shares or Shares()
        self.num_waiting = 0
        """Sockets that have taken more than their share."""

    @property
    def waiting_share(self) -> float:
        """Of the loop's time, for each of the sockets that wait for theirs."""
        return min(self.shares.each, self.shares.busy / max(1, self.num_waiting))

    def share(self) -> "LoopShare":
        """Another socket's share."""
        return LoopShare(self)


class LoopShare:
    """What one socket may take of the event loop's time."""

    def __init__(self, loop_time: LoopTime) -> None:
        self._loop_time = loop_time
        self._level = loop_time.shares.saved_seconds
        self._filled_at = loop_time.time.now()
        self._is_waiting = False

    async def run(
        self, work: Callable[[*Given], Coroutine[Any, Any, Answer]], *args: *Given
    ) -> Answer:
        """Do `work` and count the time that it takes of the loop; `settle` afterwards."""
        return await _Counted(work(*args), self)

    async def settle(self) -> None:
        """Wait until what was taken too early has come in."""
        self.charge(0)
        if self._level >= 0:
            return
        self._loop_time.num_waiting += 1
        self._is_waiting = True
        try:
            while self._level < -LEAST_SECONDS:
                await self._loop_time.time.sleep(-self._level / self._loop_time.waiting_share)
                self.charge(0)
        finally:
            self._loop_time.num_waiting -= 1
            self._is_waiting = False

    def worked(self) -> float:
        """The clock of the work."""
        return self._loop_time.time.worked()

    def charge(self, seconds: float) -> None:
        """So much was taken."""
        now = self._loop_time.time.now()
        shares = self._loop_time.shares
        share = self._loop_time.waiting_share if self._is_waiting else shares.each
        filled = min(shares.saved_seconds, self._level + (now - self._filled_at) * share)
        self._filled_at = now
        self._level = filled - min(seconds, LONGEST_STEP_SECONDS)


class _Counted(Generic[Answer]):
    """Work, step by step, each of which is charged."""

    def __init__(self, work: Coroutine[Any, Any, Answer], share: LoopShare) -> None:
        self._work = work
        self._share = share

    def __await__(self) -> Generator[Any, Any, Answer]:
        share = self._share
        step = partial(self._work.send, None)
        while True:
            began = share.worked()
            try:
                awaited = step()
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            finally:
                # An error that it raises and holds would hold this frame, and that the error.
                del step
                share.charge(share.worked() - began)
            try:
                yield awaited
                step = partial(self._work.send, None)
            except BaseException as error:
                # Its own to handle: it may be cancelled.
                step = partial(self._work.throw, error)
