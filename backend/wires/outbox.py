"""What a client is told: numbered in order, kept until it has arrived, over whichever socket."""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from backend.wires.wire import Ending

ServerT = TypeVar("ServerT")

MAX_KEPT_BYTES = 8 * 1024 * 1024
"""Of one conversation's messages: two minutes of spoken reply, or hours of text."""


class MessagesLostError(Exception):
    """Messages that a reader still needs were let go to keep memory bounded."""


@dataclass(frozen=True, slots=True)
class NumberedMessage:
    """A message as it goes over the wire; numbers count from 1 in a conversation."""

    number: int
    text: str


class Outbox(Generic[ServerT]):
    """Messages of one conversation, in order. Putting never waits; memory is bounded.

    Args:
        encode: a message with its number, as the socket carries it; None leaves it out.
        max_kept_bytes: beyond it the oldest are let go, arrived or not; the newest stays.
    """

    def __init__(
        self, encode: Callable[[ServerT, int], str | None], max_kept_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        self.ending: Ending | None = None
        self._encode = encode
        self._max_kept_bytes = max_kept_bytes
        self._kept: deque[NumberedMessage] = deque()
        self._num_kept_bytes = 0
        self._last_number = 0
        self._news = asyncio.Event()
        self._is_held = False
        self._num_released = 0

    @classmethod
    def taken_up(
        cls,
        encode: Callable[[ServerT, int], str | None],
        num_messages: int,
        kept: Iterable[str],
    ) -> "Outbox[ServerT]":
        """Go on after so many messages, of which the last are kept."""
        outbox = cls(encode)
        texts = list(kept)
        outbox._last_number = outbox._num_released = num_messages
        for number, text in enumerate(texts, num_messages - len(texts) + 1):
            outbox._keep(NumberedMessage(number, text))
        return outbox

    def hold(self) -> None:
        """From now on, nothing more is carried before it is released."""
        self._is_held = True

    def release(self, number: int, *, holds_others: bool) -> None:
        """Messages up to `number` may be carried; others, only if they are not held any more."""
        self._num_released = number
        self._is_held = holds_others
        self._news.set()

    def hold_no_more(self) -> None:
        """All may be carried, as they come."""
        self._is_held = False
        self._news.set()

    async def fills(self) -> None:
        """Wait until there are messages that may not be carried yet."""
        while self._num_released == self._last_number:
            self._news.clear()
            await self._news.wait()

    @property
    def unreleased(self) -> list[str]:
        """The messages that may not be carried yet."""
        return [
            self._kept[number - self.oldest_number].text
            for number in range(
                max(self._num_released + 1, self.oldest_number), self._last_number + 1
            )
        ]

    @property
    def last_number(self) -> int:
        """Number of the newest message; 0 before the first."""
        return self._last_number

    @property
    def oldest_number(self) -> int:
        """Number of the oldest message that is kept; of the next to come if none is."""
        return self._kept[0].number if self._kept else self._last_number + 1

    def put(self, messages: Iterable[ServerT]) -> None:
        """Tell the client, in order and with nothing in between."""
        for message in messages:
            text = self._encode(message, self._last_number + 1)
            if text is None:
                continue
            self._last_number += 1
            self._keep(NumberedMessage(self._last_number, text))
        while self._num_kept_bytes > self._max_kept_bytes and len(self._kept) > 1:
            self._let_oldest_go()
        self._news.set()

    def end(self, ending: Ending) -> None:
        """Say that nothing more comes; what comes nevertheless is not carried."""
        if self.ending is None:
            self.ending = ending
            self._news.set()

    def forget(self, number: int) -> None:
        """Messages up to `number` have arrived."""
        while self._kept and self._kept[0].number <= number:
            self._let_oldest_go()

    async def after(self, number: int) -> AsyncIterator[NumberedMessage]:
        """What follows message `number`, as it comes, until the end.

        Raises:
            MessagesLostError: some of it was let go before the reader came to it.
        """
        while True:
            while number < (self._num_released if self._is_held else self._last_number):
                if number + 1 < self.oldest_number:
                    raise MessagesLostError(f"message {number + 1} is not kept any more")
                message = self._kept[number + 1 - self.oldest_number]
                yield message
                number = message.number
            if self.ending is not None and number == self._last_number:
                return
            self._news.clear()
            await self._news.wait()

    def _keep(self, message: NumberedMessage) -> None:
        self._kept.append(message)
        self._num_kept_bytes += sys.getsizeof(message.text)

    def _let_oldest_go(self) -> None:
        self._num_kept_bytes -= sys.getsizeof(self._kept.popleft().text)
