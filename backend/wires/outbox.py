"""What a client is told: numbered in order, kept until it has arrived, whoever carries it."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from backend.wires.errors import CloseCode
from backend.wires.realtime.server_messages import WireEvent

MAX_KEPT_BYTES = 8 * 1024 * 1024
"""Of one conversation's events: two minutes of spoken reply, or hours of text."""


class EventsLostError(Exception):
    """Events that a reader still needs were let go to keep memory bounded."""


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event as it goes over the wire; numbers count from 1 in a conversation."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Ending:
    """Nothing more comes: how the socket is to be closed."""

    close_code: CloseCode
    reason: str


class Outbox:
    """Events of one conversation, in order. Putting never waits; memory is bounded.

    Args:
        is_numbered: whether events carry `server_event_seq`.
        max_kept_bytes: beyond it the oldest events are let go, arrived or not; the newest stays.
    """

    def __init__(self, is_numbered: bool, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self.ending: Ending | None = None
        self._is_numbered = is_numbered
        self._max_kept_bytes = max_kept_bytes
        self._kept: deque[NumberedEvent] = deque()
        self._num_kept_bytes = 0
        self._last_number = 0
        self._news = asyncio.Event()

    @property
    def last_number(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._last_number

    @property
    def oldest_number(self) -> int:
        """Number of the oldest event that is kept; of the next to come if none is."""
        return self._kept[0].number if self._kept else self._last_number + 1

    @property
    def num_kept_bytes(self) -> int:
        """Memory that the kept events take."""
        return self._num_kept_bytes

    def put(self, events: Iterable[WireEvent]) -> None:
        """Tell the client of `events`, in order and with nothing in between."""
        for event in events:
            self._last_number += 1
            numbering = {"server_event_seq": self._last_number} if self._is_numbered else {}
            text = json.dumps(event | numbering, ensure_ascii=False)
            self._kept.append(NumberedEvent(self._last_number, text))
            self._num_kept_bytes += sys.getsizeof(text)
        while self._num_kept_bytes > self._max_kept_bytes and len(self._kept) > 1:
            self._let_oldest_go()
        self._news.set()

    def end(self, close_code: CloseCode, reason: str) -> None:
        """Say that nothing more comes; what comes nevertheless is not carried."""
        if self.ending is None:
            self.ending = Ending(close_code, reason)
            self._news.set()

    def forget(self, number: int) -> None:
        """Events up to `number` have arrived."""
        while self._kept and self._kept[0].number <= number:
            self._let_oldest_go()

    async def after(self, number: int) -> AsyncIterator[NumberedEvent]:
        """What follows event `number`, as it comes, until the end.

        Raises:
            EventsLostError: some of it was let go before the reader came to it.
        """
        while True:
            while number < self._last_number:
                if number + 1 < self.oldest_number:
                    raise EventsLostError(f"event {number + 1} is not kept any more")
                event = self._kept[number + 1 - self.oldest_number]
                yield event
                number = event.number
            if self.ending is not None:
                return
            self._news.clear()
            await self._news.wait()

    def _let_oldest_go(self) -> None:
        self._num_kept_bytes -= sys.getsizeof(self._kept.popleft().text)
