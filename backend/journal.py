"""What is kept of conversations outside of who has them, so that another may go on with one.

Pure: what a conversation is beside its sound, tokens and messages is bytes here.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

MAX_BYTES = 4 * 1024**3
"""Of all records; beyond it those go that were written to longest ago."""
KEPT_SECONDS = 90.0
"""A record outlives its last entry by so much; a conversation writes more often."""
RETRY_SECONDS = 5.0
"""Between two tries to have a conversation kept, where the journal had no room or was away."""
SIGN_OF_LIFE_SECONDS = 20.0
"""A conversation in which nothing happens writes an entry all the same."""


class JournalError(Exception):
    """The journal cannot be reached: conversations go on, and are not taken over meanwhile."""


class Written(StrEnum):
    """What came of an entry."""

    KEPT = "kept"
    TAKEN_OVER = "taken over"
    """Another goes on with the conversation: nothing more is to be told by who had it."""
    UNKNOWN = "unknown"
    """The journal has no such record, or no room for one."""


@dataclass(frozen=True, slots=True)
class JournalChunk:
    """A chunk that the model is to hear."""

    number: int
    pcm: bytes
    """16 bit at 16 kHz, which is what the model hears."""
    detail: bytes
    """What the conversation knows of it."""


@dataclass(frozen=True, slots=True)
class SaidTokens:
    """Tokens that followed a chunk."""

    chunk: int
    token_ids: tuple[int, ...]
    loudest: float | None = None
    """With the decision, its first: the largest log-mel so far."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a conversation adds in one go, before anybody is told any of it."""

    chunks: tuple[JournalChunk, ...] = ()
    spoken: tuple[SaidTokens, ...] = ()
    context: tuple[int, ...] | None = None
    """Where the context rolled, the chunks that stay in it."""
    state: bytes = b""
    """Of the conversation, after all this."""
    wire_state: bytes | None = None
    """Of its wire; None where it is as before."""
    messages: tuple[str, ...] = ()
    """What its client is told next."""
    num_messages: int = 0
    """Of all that there are by now."""
    num_arrived: int = 0
    """Messages that have arrived, and are kept no longer."""

    @property
    def num_bytes(self) -> int:
        """About what it takes up."""
        num_sound_bytes = sum(len(chunk.pcm) + len(chunk.detail) for chunk in self.chunks)
        num_told_bytes = sum(len(message) for message in self.messages)
        return num_sound_bytes + num_told_bytes + len(self.state) + len(self.wire_state or b"")


@dataclass(slots=True)
class JournalRecord:
    """A conversation as far as it is known."""

    resume_token: str
    generation: int
    """How many have had it: what another than the latest writes is not kept."""
    written_at: float = 0.0
    chunks: dict[int, JournalChunk] = field(default_factory=dict)
    """Of the context, with the one before each; then those that are not heard yet."""
    spoken: dict[int, list[int]] = field(default_factory=dict)
    """Tokens by chunk."""
    loudest: dict[int, float] = field(default_factory=dict)
    let_go: set[int] = field(default_factory=set)
    """Chunks that are not in the context, and are needed to hear the next one."""
    state: bytes = b""
    wire_state: bytes = b""
    messages: deque[str] = field(default_factory=deque)
    """Those that have not arrived."""
    num_messages: int = 0
    """Of all that there were."""

    @property
    def num_bytes(self) -> int:
        """About what it takes up."""
        num_sound_bytes = sum(len(chunk.pcm) + len(chunk.detail) for chunk in self.chunks.values())
        num_told_bytes = sum(len(message) for message in self.messages)
        return num_sound_bytes + num_told_bytes + len(self.state) + len(self.wire_state)

    def add(self, entry: Entry) -> None:
        """Keep what is new, and nothing that is not needed any more."""
        for chunk in entry.chunks:
            self.chunks[chunk.number] = chunk
        for spoken in entry.spoken:
            self.spoken.setdefault(spoken.chunk, []).extend(spoken.token_ids)
            if spoken.loudest is not None:
                self.loudest[spoken.chunk] = spoken.loudest
        if entry.context is not None:
            self._roll(frozenset(entry.context))
        self.state = entry.state
        if entry.wire_state is not None:
            self.wire_state = entry.wire_state
        self.messages.extend(entry.messages)
        self.num_messages = entry.num_messages
        while len(self.messages) > self.num_messages - entry.num_arrived:
            self.messages.popleft()

    def _roll(self, context: frozenset[int]) -> None:
        newest = max(context)
        self.let_go = {number for number in self.chunks if number + 1 in context} - context
        stay = {number for number in self.chunks if number in context or number > newest}
        for number in self.chunks.keys() - stay - self.let_go:
            del self.chunks[number]
            self.spoken.pop(number, None)
            self.loudest.pop(number, None)


class Journal(Protocol):
    """Where conversations are kept."""

    async def keep(self, session_id: str, record: JournalRecord) -> Written:
        """Have all of a conversation's record, from now on.

        Raises:
            JournalError: it cannot be reached.
        """

    async def write(self, session_id: str, generation: int, entry: Entry) -> Written:
        """Add to a conversation's record.

        Raises:
            JournalError: it cannot be reached.
        """

    async def take(
        self, session_id: str, resume_token: str, num_received: int
    ) -> JournalRecord | None:
        """Go on with a conversation: who had it writes no more.

        Args:
            num_received: messages that its client has had, with which a record begins or goes on.

        Returns:
            None where there is none such.

        Raises:
            JournalError: it cannot be reached.
        """

    async def end(self, session_id: str, generation: int) -> None:
        """The conversation is over, unless another has gone on with it.

        Raises:
            JournalError: it cannot be reached.
        """


class JournalRecords:
    """All records of a journal, in the memory of one process.

    Args:
        clock: in seconds.
        max_bytes: of all of them.
    """

    def __init__(self, clock: Callable[[], float], max_bytes: int = MAX_BYTES) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._records: OrderedDict[str, JournalRecord] = OrderedDict()
        """The one that was written to last comes last."""
        self._sizes: dict[str, int] = {}
        self._num_bytes = 0
        self.num_written_bytes = 0
        """Ever."""

    @property
    def num_bytes(self) -> int:
        """Of all records."""
        return self._num_bytes

    def keep(self, session_id: str, record: JournalRecord) -> Written:
        """As a journal's."""
        self._forget_old()
        kept = self._records.get(session_id)
        if kept is not None and kept.generation > record.generation:
            return Written.TAKEN_OVER
        if kept is None and self._num_bytes >= self._max_bytes:
            return Written.UNKNOWN
        self._records[session_id] = deepcopy(record)
        self._written_to(session_id, record.num_bytes)
        return Written.KEPT

    def write(self, session_id: str, generation: int, entry: Entry) -> Written:
        """As a journal's."""
        self._forget_old()
        if (record := self._records.get(session_id)) is None:
            return Written.UNKNOWN
        if record.generation != generation:
            return Written.TAKEN_OVER
        record.add(entry)
        self._written_to(session_id, entry.num_bytes)
        return Written.KEPT

    def take(self, session_id: str, resume_token: str, num_received: int) -> JournalRecord | None:
        """As a journal's."""
        self._forget_old()
        record = self._records.get(session_id)
        if record is None or record.resume_token != resume_token:
            return None
        if record.num_messages < num_received:
            # Its owner has told more without the journal.
            return None
        record.generation += 1
        return deepcopy(record)

    def end(self, session_id: str, generation: int) -> None:
        """As a journal's."""
        record = self._records.get(session_id)
        if record is not None and record.generation == generation:
            self._forget(session_id)

    def _written_to(self, session_id: str, num_bytes: int) -> None:
        record = self._records[session_id]
        record.written_at = self._clock()
        self._records.move_to_end(session_id)
        self.num_written_bytes += num_bytes
        self._measure(session_id, record.num_bytes)
        while self._num_bytes > self._max_bytes and len(self._records) > 1:
            self._forget(next(iter(self._records)))

    def _forget_old(self) -> None:
        while self._records:
            session_id, record = next(iter(self._records.items()))
            if self._clock() - record.written_at < KEPT_SECONDS:
                return
            self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        del self._records[session_id]
        self._measure(session_id, 0)

    def _measure(self, session_id: str, num_bytes: int) -> None:
        self._num_bytes += num_bytes - self._sizes.pop(session_id, 0)
        if num_bytes:
            self._sizes[session_id] = num_bytes


class OwnJournal:
    """A journal of this process alone."""

    def __init__(self, records: JournalRecords) -> None:
        self._records = records

    async def keep(self, session_id: str, record: JournalRecord) -> Written:
        """As a journal's."""
        return self._records.keep(session_id, record)

    async def write(self, session_id: str, generation: int, entry: Entry) -> Written:
        """As a journal's."""
        return self._records.write(session_id, generation, entry)

    async def take(
        self, session_id: str, resume_token: str, num_received: int
    ) -> JournalRecord | None:
        """As a journal's."""
        return self._records.take(session_id, resume_token, num_received)

    async def end(self, session_id: str, generation: int) -> None:
        """As a journal's."""
        self._records.end(session_id, generation)
