"""Who may talk now: a limit of conversations, and a line in which the others wait their turn."""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from statistics import fmean

from backend.timing import Time

MAX_IN_LINE = 100
"""Those who would wait behind them are refused."""
FIRST_GUESS_SECONDS = 300.0
"""How long a conversation lasts, before any has ended."""
NUM_REMEMBERED = 20
"""Conversations whose length tells how long the next will last."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where somebody stands in the line; position 1 is next."""

    position: int
    queue_length: int
    estimated_wait_seconds: float


@dataclass(eq=False, slots=True)
class Place:
    """The right to one conversation."""

    taken_at: float


@dataclass(eq=False, slots=True)
class Waiter:
    """Somebody in the line; `place` is theirs once they have come to its front."""

    ticket_id: str = field(default_factory=lambda: f"ticket_{secrets.token_hex(10)}")
    place: Place | None = None
    has_moved: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """Hands out places, in the order in which they were asked for.

    Args:
        limit: places that there are.
    """

    def __init__(self, limit: int, time: Time) -> None:
        self._limit = limit
        self._time = time
        self._taken: set[Place] = set()
        self._line: deque[Waiter] = deque()
        self._lengths_seconds: deque[float] = deque(maxlen=NUM_REMEMBERED)

    @property
    def num_taken(self) -> int:
        """Places that are taken."""
        return len(self._taken)

    @property
    def num_waiting(self) -> int:
        """Those in the line."""
        return len(self._line)

    def enter(self) -> Place | None:
        """A place, if one is free; nobody waits for a place that is free."""
        return self._take() if self.num_taken < self._limit else None

    def queue_up(self) -> Waiter | None:
        """Stand in line, at its end; None where the line is too long already."""
        if self.num_waiting >= MAX_IN_LINE:
            return None
        waiter = Waiter()
        self._line.append(waiter)
        self._tell_all()
        return waiter

    async def standings(self, waiter: Waiter) -> AsyncIterator[Standing]:
        """Where `waiter` stands, at first and whenever that changes, until it has its place."""
        while waiter.place is None:
            waiter.has_moved.clear()
            yield self._standing(waiter)
            await waiter.has_moved.wait()

    def step_out(self, waiter: Waiter) -> None:
        """Leave the line; a place that came meanwhile is the next one's."""
        if waiter.place is not None:
            self.leave(waiter.place)
        elif waiter in self._line:
            self._line.remove(waiter)
            self._tell_all()

    def leave(self, place: Place) -> None:
        """Give a place back; it goes to whoever waits longest. Leaving twice is allowed."""
        if place not in self._taken:
            return
        self._taken.remove(place)
        self._lengths_seconds.append(self._time.now() - place.taken_at)
        if self._line:
            first = self._line.popleft()
            first.place = self._take()
            first.has_moved.set()
            self._tell_all()

    def _take(self) -> Place:
        place = Place(self._time.now())
        self._taken.add(place)
        return place

    def _tell_all(self) -> None:
        for waiter in self._line:
            waiter.has_moved.set()

    def _standing(self, waiter: Waiter) -> Standing:
        position = self._line.index(waiter) + 1
        return Standing(position, self.num_waiting, self._estimated_wait_seconds(position))

    def _estimated_wait_seconds(self, position: int) -> float:
        """Until `position` conversations have ended, if they last as long as others did."""
        length = fmean(self._lengths_seconds) if self._lengths_seconds else FIRST_GUESS_SECONDS
        now = self._time.now()
        # One that has lasted longer than usual tells nothing of when it will end: half as long.
        left = sorted(
            length - age if (age := now - place.taken_at) < length else length / 2
            for place in self._taken
        )
        rounds, place_number = divmod(position - 1, self._limit)
        return left[place_number] + rounds * length
