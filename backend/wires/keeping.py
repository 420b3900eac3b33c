"""A conversation's record is written before its client is told anything of what is in it."""

import asyncio
import logging
from dataclasses import replace

from backend.conversation.conversation import Conversation
from backend.journal import SIGN_OF_LIFE_SECONDS, Entry, Journal, JournalError, Written
from backend.timing import Time
from backend.wires.outbox import Outbox
from backend.wires.wire import MovableWire

logger = logging.getLogger(__name__)


class RecordKeeper:
    """Writes one conversation's record.

    Args:
        journal: where to.
        wire: of the conversation.
        outbox: what its client is told; nothing is carried before it is written.
        generation: how many processes have had the conversation.
        time: for signs of life.
    """

    def __init__(
        self,
        journal: Journal,
        wire: MovableWire,
        outbox: Outbox[object],
        generation: int,
        time: Time,
    ) -> None:
        self.is_taken_over = False
        """Whether another process has the conversation by now."""
        self._journal = journal
        self._wire = wire
        self._outbox = outbox
        self._generation = generation
        self._time = time
        self._wire_state: bytes | None = None
        self._writing = asyncio.Lock()
        self.is_kept = True
        """Whether another process may go on with the conversation."""
        self._begins = generation == 1
        outbox.hold()

    async def run(self, conversation: Conversation) -> None:
        """Write what happens, until another process has the conversation or none can."""
        sign_of_life = asyncio.create_task(self._time.sleep(SIGN_OF_LIFE_SECONDS))
        try:
            while await self.write(conversation):
                news = asyncio.create_task(self._outbox.fills())
                try:
                    await asyncio.wait([news, sign_of_life], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                if sign_of_life.done():
                    sign_of_life = asyncio.create_task(self._time.sleep(SIGN_OF_LIFE_SECONDS))
        finally:
            sign_of_life.cancel()

    async def write(self, conversation: Conversation) -> bool:
        """Write what is new; whether the conversation is kept and its own still."""
        # One after the other: an entry tells what the ones before have not.
        async with self._writing:
            if self.is_kept:
                await self._write(self._entry(conversation))
        return self.is_kept

    async def _write(self, entry: Entry) -> None:
        try:
            written = await self._journal.write(self._wire.key.session_id, self._generation, entry)
        except JournalError as error:
            logger.warning("a conversation is not kept any more: %s", error)
            written = Written.UNKNOWN
        match written:
            case Written.KEPT:
                self._outbox.release(entry.num_messages)
            case Written.TAKEN_OVER:
                self.is_taken_over = True
                self.is_kept = False
            case Written.UNKNOWN:
                self._outbox.hold_no_more()
                self.is_kept = False

    async def end(self) -> None:
        """The conversation is over."""
        if self.is_taken_over:
            return
        self._outbox.hold_no_more()
        try:
            await self._journal.end(self._wire.key.session_id, self._generation)
        except JournalError as error:
            logger.warning("a record of a conversation that is over stays: %s", error)

    def _entry(self, conversation: Conversation) -> Entry:
        before, self._wire_state = self._wire_state, self._wire.state()
        begins, self._begins = self._begins, False
        outbox = self._outbox
        return replace(
            conversation.entry(),
            wire_state=None if before == self._wire_state else self._wire_state,
            messages=tuple(outbox.unreleased),
            num_messages=outbox.last_number,
            num_arrived=outbox.oldest_number - 1,
            resume_token=self._wire.key.resume_token if begins else None,
        )
