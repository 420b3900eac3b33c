"""Wrong access keys: the address that they come from has to wait before it may try more."""

import asyncio
import logging

from cachetools import LRUCache

from backend.allowance import TokenBucket
from backend.timing import SystemTime, Time
from backend.wires.errors import CloseCode, ConnectionEnd, WireError

logger = logging.getLogger(__name__)

GUESSES_PER_SECOND = 0.5
FREE_GUESSES = 10.0
"""Which somebody may need who types a key, or opens a page that remembers the last one."""
MAX_WAITING = 32
"""From one address: further ones are refused."""
MAX_ADDRESSES = 10_000
"""That are remembered, those that were heard of last."""


class Guesses:
    """Keeps count of wrong keys by address. Belongs to one event loop."""

    def __init__(self, time: Time | None = None) -> None:
        self._time = time or SystemTime()
        self._from: LRUCache[str, _GuessesFrom] = LRUCache(MAX_ADDRESSES)

    def count(self, address: str) -> None:
        """A wrong key came from there."""
        if (guesses := self._from.get(address)) is None:
            logger.warning("wrong access keys come from %s", address)
            guesses = self._from[address] = _GuessesFrom(self._time)
        guesses.bucket.charge(1)

    async def wait(self, address: str) -> None:
        """Wait before a key from there is looked at, be it right or wrong, after those before it.

        Raises:
            ConnectionEnd: too many wait already.
        """
        if (guesses := self._from.get(address)) is None or guesses.bucket.charge(0) == 0:
            return
        if guesses.num_waiting >= MAX_WAITING:
            error = WireError(
                "too many wrong access keys come from your address: try again in a minute",
                "too_many_requests",
            )
            raise ConnectionEnd(error, CloseCode.POLICY)
        guesses.num_waiting += 1
        try:
            async with guesses.turn:
                while (seconds := guesses.bucket.charge(0)) > 0:
                    await self._time.sleep(seconds)
        finally:
            guesses.num_waiting -= 1


class _GuessesFrom:
    """Those of one address."""

    def __init__(self, time: Time) -> None:
        self.bucket = TokenBucket(GUESSES_PER_SECOND, FREE_GUESSES, time)
        self.turn = asyncio.Lock()
        self.num_waiting = 0
