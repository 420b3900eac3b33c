"""A list that lets its oldest entries go; the others keep their numbers."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class History(Generic[Entry]):
    """Of at most `capacity` entries, numbered from 0 from the first that ever was."""

    def __init__(self, capacity: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._num_ever = 0

    def __len__(self) -> int:
        """How many there ever were: the number of the next."""
        return self._num_ever

    @property
    def first(self) -> int:
        """The number of the oldest that is still there."""
        return self._num_ever - len(self._entries)

    @property
    def last(self) -> Entry | None:
        """The newest; None before there is one."""
        return self._entries[-1] if self._entries else None

    def push(self, entry: Entry) -> None:
        """Add the newest."""
        self._entries.append(entry)
        self._num_ever += 1

    def get(self, number: int) -> Entry:
        """One that is still there.

        Raises:
            IndexError: it is not there any more, or not yet.
        """
        if not self.first <= number < self._num_ever:
            raise IndexError(f"there is no entry {number}")
        return self._entries[number - self.first]

    def since(self, number: int) -> Iterator[Entry]:
        """Those from a number on that are still there, oldest first."""
        return islice(self._entries, max(0, number - self.first), None)
