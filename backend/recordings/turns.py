"""Whose work is next: a few at a time, of which one address has one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backend.errors import RecordingError

MAX_WAITING = 200
MAX_WAITING_EACH = 32
"""From one address; behind a proxy that is not trusted all have the same."""


class Turns:
    """Hands out turns in the order in which they were asked for, but one at a time to an address.

    Args:
        num_at_once: how many have theirs at the same time.
    """

    def __init__(self, num_at_once: int) -> None:
        self._free = asyncio.Semaphore(num_at_once)
        self._of_address: dict[str, asyncio.Lock] = {}
        self._num_from: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block runs.

        Raises:
            RecordingError: too many wait.
        """
        if self._num_from[address] >= MAX_WAITING_EACH or self._num_from.total() >= MAX_WAITING:
            raise RecordingError(
                "the server has much to do with recordings: try again later", "too_many_requests"
            )
        self._num_from[address] += 1
        own = self._of_address.setdefault(address, asyncio.Lock())
        try:
            async with own, self._free:
                yield
        finally:
            self._num_from[address] -= 1
            if not self._num_from[address]:
                del self._num_from[address], self._of_address[address]
