"""A conversation's record is written before its client is told anything of what is in it."""

import asyncio
import logging
from dataclasses import replace

from backend.conversation.conversation import Conversation
from backend.journal import (
    RETRY_SECONDS,
    SIGN_OF_LIFE_SECONDS,
    Entry,
    Journal,
    JournalError,
    JournalRecord,
    Written,
)
from backend.timing import Time
from backend.wires.outbox import Outbox
from backend.wires.wire import AnyWire

logger = logging.getLogger(__name__)


class RecordKeeper:
    """Writes one conversation's record.

    It has the record too: a journal that has lost it is given all of it.

    Args:
        outbox: what its client is told; nothing is carried before it is written.
        record: what is kept by now.
        time: for signs of life.
    """

    def __init__(
        self,
        journal: Journal,
        wire: AnyWire,
        outbox: Outbox[object],
        record: JournalRecord,
        time: Time,
    ) -> None:
        self.is_taken_over = False
        """Whether another process has the conversation by now."""
        self.is_kept = record.generation > 1
        """Whether another process may go on with the conversation: what was taken is kept."""
        self._journal = journal
        self._wire = wire
        self._outbox = outbox
        self._record = record
        self._time = time
        self._writing = asyncio.Lock()
        outbox.hold()

    async def run(self, conversation: Conversation) -> None:
        """Write what happens, until another process has the conversation."""
        while True:
            if await self.write(conversation):
                waiting = [self._outbox.fills(), self._time.sleep(SIGN_OF_LIFE_SECONDS)]
            elif self.is_taken_over:
                return
            else:
                waiting = [self._time.sleep(RETRY_SECONDS)]
            tasks = [asyncio.ensure_future(each) for each in waiting]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()

    async def write(self, conversation: Conversation) -> bool:
        """Write what is new; whether the conversation is kept and its own still."""
        # One after the other: an entry tells what the ones before have not.
        async with self._writing:
            if not self.is_taken_over:
                await self._write(self._entry(conversation))
        return self.is_kept

    async def _write(self, entry: Entry) -> None:
        self._record.add(entry)
        written = await self._written(entry)
        if written is Written.TAKEN_OVER:
            self.is_taken_over, self.is_kept = True, False
            return
        if self.is_kept and written is Written.UNKNOWN:
            logger.warning("a conversation is not kept any more")
        self.is_kept = written is Written.KEPT
        self._outbox.release(entry.num_messages, holds_others=self.is_kept)

    async def _written(self, entry: Entry) -> Written:
        session_id, record = self._wire.key.session_id, self._record
        try:
            if self.is_kept:
                written = await self._journal.write(session_id, record.generation, entry)
                if written is not Written.UNKNOWN:
                    return written
            return await self._journal.keep(session_id, record)
        except JournalError:
            return Written.UNKNOWN

    async def end(self) -> None:
        """The conversation is over."""
        if self.is_taken_over:
            return
        self._outbox.hold_no_more()
        try:
            await self._journal.end(self._wire.key.session_id, self._record.generation)
        except JournalError as error:
            logger.warning("a record of a conversation that is over stays: %s", error)

    def _entry(self, conversation: Conversation) -> Entry:
        outbox, state = self._outbox, self._wire.state()
        return replace(
            conversation.entry(),
            wire_state=None if state == self._record.wire_state else state,
            messages=tuple(outbox.unreleased),
            num_messages=outbox.last_number,
            num_arrived=outbox.oldest_number - 1,
        )
