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


@dataclass(frozen=True, slots=True)
class Others:
    """How it stands with the other servers of a cluster, by their last word."""

    num_free: int = 0
    """Places that nobody waits for."""
    waiting_since: tuple[float, ...] = ()
    """Of each who waits there, in seconds of the clock here."""


@dataclass(eq=False, slots=True)
class Place:
    """The right to one conversation."""

    taken_at: float


@dataclass(eq=False, slots=True)
class Waiter:
    """Somebody in the line; `place` is theirs once they have come to its front."""

    since: float = 0.0
    ticket_id: str = field(default_factory=lambda: f"ticket_{secrets.token_hex(10)}")
    place: Place | None = None
    has_moved: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """Hands out places, in the order in which they were asked for.

    Args:
        limit: places that there are.
    """

    def __init__(self, limit: int, time: Time) -> None:
        self.limit = limit
        """Places that there are."""
        self._time = time
        self._others = Others()
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

    @property
    def num_free(self) -> int:
        """Places that nobody has or waits for."""
        return max(self.limit - self.num_taken - self.num_waiting, 0)

    @property
    def waiting_since(self) -> tuple[float, ...]:
        """Of each in the line, in seconds of the clock."""
        return tuple(waiter.since for waiter in self._line)

    def close(self) -> None:
        """Let nobody in any more; those in the line find their place elsewhere."""
        self.limit = 0
        self._tell_all()

    def hear_of(self, others: Others) -> None:
        """What is free elsewhere, and who waits there, is in the line of all."""
        if others != self._others:
            self._others = others
            self._tell_all()

    @property
    def has_room_elsewhere(self) -> bool:
        """Whether a client had better come to another server than wait in this one's line."""
        return self._others.num_free > len(self._others.waiting_since) + self.num_waiting

    def is_to_move(self, waiter: Waiter) -> bool:
        """Whether one of the free places elsewhere is this one's turn, or none will be here."""
        if waiter.place is not None:
            return False
        return not self.limit or self._position(waiter) <= self._others.num_free

    def enter(self) -> Place | None:
        """A place, if one is free; nobody waits for a place that is free."""
        return self._take() if self.num_taken < self.limit else None

    def queue_up(self) -> Waiter | None:
        """Stand in line, at its end; None where the line is too long already."""
        if self.num_waiting >= MAX_IN_LINE:
            return None
        waiter = Waiter(since=self._time.now())
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
        if self._line and self.num_taken < self.limit:
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
        here = self._line.index(waiter) + 1
        length = self.num_waiting + len(self._others.waiting_since)
        return Standing(self._position(waiter), length, self._estimated_wait_seconds(here))

    def _position(self, waiter: Waiter) -> int:
        """In the line of all servers."""
        here = self._line.index(waiter) + 1
        return here + sum(since < waiter.since for since in self._others.waiting_since)

    def _estimated_wait_seconds(self, position: int) -> float:
        """Until `position` conversations have ended, if they last as long as others did."""
        length = fmean(self._lengths_seconds) if self._lengths_seconds else FIRST_GUESS_SECONDS
        if not self.limit:
            return 0.0
        now = self._time.now()
        # One that has lasted longer than usual tells nothing of when it will end: half as long.
        left = sorted(
            length - age if (age := now - place.taken_at) < length else length / 2
            for place in self._taken
        )
        rounds, place_number = divmod(position - 1, self.limit)
        return left[place_number] + rounds * length
