"""How much one socket may send: what comes faster waits, and nothing of it is lost."""

from backend.timing import Time


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
