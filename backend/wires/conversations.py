"""Every conversation of a server: who holds it, and for how long it outlives a lost socket."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from traceback import clear_frames
from typing import Any
from weakref import WeakValueDictionary

from backend.admission import Admission, Place
from backend.allowance import LoopTime
from backend.conversation.conversation import Conversation
from backend.conversation.events import ConversationEnded, ConversationEvent, EndReason
from backend.conversation.keeping import KeptPast
from backend.conversation.model_session import SessionOpener
from backend.counts import ConversationCounts
from backend.errors import AudioInteractionError
from backend.journal import Journal, JournalError, JournalRecord
from backend.recordings.live import Recordings
from backend.timing import WorkTime
from backend.wires.errors import (
    SESSION_FAILURE,
    CloseCode,
    ConnectionEnd,
    WireError,
    connection_end,
    session_failed,
)
from backend.wires.keeping import RecordKeeper
from backend.wires.outbox import Outbox
from backend.wires.wire import (
    AnyWire,
    ClientMessage,
    Observation,
    Request,
    Resume,
    SocketEvent,
)

logger = logging.getLogger(__name__)

KEPT_SECONDS = 60.0
"""A conversation whose socket dropped waits this long for another."""
LONGEST_REPLY_SECONDS = 10.0
"""So long is waited for the end of a reply before its conversation is handed over."""
SILENCE_LOOK_SECONDS = 0.1
MAX_OBSERVERS = 4
"""Of one conversation: each is told all of it."""


class Line:
    """A conversation's line to its client: its wire, and what the client is told over it."""

    def __init__(self, wire: AnyWire, outbox: Outbox[Any] | None = None) -> None:
        self.wire = wire
        self.outbox: Outbox[Any] = outbox or Outbox(wire.encode)
        self.observers: list[ObserverLine] = []
        """Those that are told all that the client is."""

    def tell(self, event: ConversationEvent | SocketEvent) -> None:
        """Put what happens into the client's messages."""
        self.answer(self.wire.write(event))
        if isinstance(event, ConversationEnded):
            for line in (self, *self.observers):
                line.outbox.end(self.wire.ending(event.reason))

    def say(self, event: SocketEvent) -> None:
        """Put what happens to this socket into its messages alone."""
        self.outbox.put(self.wire.write(event))

    def answer(self, messages: Sequence[Any]) -> None:
        """Put messages of the wire's own."""
        if messages:
            for line in (self, *self.observers):
                line.outbox.put(messages)

    def leave(self) -> None:
        """The socket is gone."""


class ObserverLine(Line):
    """The line to a client that looks at and steers another's conversation.

    Args:
        wire: of the observer.
        observed: the line of the conversation; all its clients are told what this one asks for.
    """

    def __init__(self, wire: AnyWire, observed: Line) -> None:
        super().__init__(wire)
        self._observed = observed
        observed.observers.append(self)

    def answer(self, messages: Sequence[Any]) -> None:
        """Put messages of the wire's own."""
        self._observed.answer(messages)

    def leave(self) -> None:
        """The socket is gone."""
        self._observed.observers.remove(self)


@dataclass(eq=False, slots=True)
class Attachment:
    """One socket's hold on a conversation, until it lets go or another socket takes over."""

    conversation: Conversation
    line: Line
    obeying: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a message is obeyed, by every socket of the conversation in its turn."""
    taking_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    """The same for messages that may take a while, beside which the others are obeyed."""
    generation: int = 1
    """How many sockets the conversation has had."""
    is_lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Another socket has taken over, or is to."""
    is_moved: bool = False
    """Whether the conversation goes on where its client comes next."""

    async def obey(self, message: ClientMessage) -> None:
        """Have the conversation do what a message asks, after those before it.

        Raises:
            AudioInteractionError: it cannot be done; the conversation goes on.
        """
        takes_time = self.line.wire.takes_time(message)
        async with self.taking_time if takes_time else self.obeying:
            self.line.answer(await self.line.wire.obey(message, self.conversation))


@dataclass(eq=False, slots=True)
class KeptConversation:
    """A conversation with its holder and its tasks; the first of these has its place."""

    holder: Attachment
    keeper: RecordKeeper | None = None
    """Writes its record; None where it stays here."""
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    keeping: "asyncio.Task[None] | None" = None
    abandoning: "asyncio.Task[None] | None" = None
    """Runs while no socket holds it."""


class Conversations:
    """Opens, keeps and ends conversations.

    Args:
        engine: opens their sessions.
        admission: says who may have one.
        kept_seconds: for those whose wire is resumable; others end with their socket.
        recordings: where those are recorded that ask for it; None where nothing is.
        has_ended: is told of each conversation that is over.
        journal: from which other processes go on with those whose wire is resumable, and this one
            with theirs; None where conversations stay.
    """

    def __init__(
        self,
        engine: SessionOpener,
        admission: Admission,
        time: WorkTime,
        kept_seconds: float = KEPT_SECONDS,
        recordings: Recordings | None = None,
        has_ended: Callable[[], None] = lambda: None,
        journal: Journal | None = None,
    ) -> None:
        self.admission = admission
        self.time = time
        self.loop_time = LoopTime(time)
        """Of which each socket may take its share."""
        self.counts = ConversationCounts(time.now)
        self._engine = engine
        self._kept_seconds = kept_seconds
        self._recordings = recordings
        self._has_ended = has_ended
        self._journal = journal
        self._kept: dict[str, KeptConversation] = {}
        self._taking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Held while a conversation of another process is taken over, by its id."""
        self._taking_up = asyncio.Lock()
        """Held while the past of one is computed."""

    async def open(self, place: Place, request: Request) -> Attachment:
        """Start a conversation in `place`, which is given back when it is over.

        Args:
            place: the right to it.
            request: what its client asks for.

        Raises:
            ConnectionEnd: the engine cannot open it; the place is given back.
        """
        with self._until_held(place) as until_held:
            line = Line(request.wire)
            keeper = self._keeper(line)
            options = replace(request.options, counts=self.counts, is_kept=keeper is not None)
            opening = Conversation.open(
                self._engine, request.defaults, options, line.tell, self.time, self._recordings
            )
            return await self._hold(until_held, place, line, keeper, opening, generation=1)

    def _until_held(self, place: Place) -> ExitStack:
        """Gives a place back, whatever happens, if no conversation is held in it by then."""
        until_held = ExitStack()
        until_held.callback(self.admission.leave, place)
        return until_held

    async def _hold(
        self,
        until_held: ExitStack,
        place: Place,
        line: Line,
        keeper: RecordKeeper | None,
        opening: Coroutine[None, None, Conversation],
        generation: int,
    ) -> Attachment:
        conversation = await self._opened(opening)
        self.counts.num_begun += 1
        kept = KeptConversation(Attachment(conversation, line, generation=generation), keeper)
        self._kept[line.wire.key.session_id] = kept
        kept.keeping = asyncio.create_task(self._keep(kept))
        # Whatever becomes of the task, it ends, and gives the place back.
        kept.keeping.add_done_callback(lambda _: self._give_back(place))
        until_held.pop_all()
        return kept.holder

    def _keeper(self, line: Line, record: JournalRecord | None = None) -> RecordKeeper | None:
        wire = line.wire
        if self._journal is None or not wire.is_resumable:
            return None
        record = record or JournalRecord(wire.key.resume_token, generation=1)
        return RecordKeeper(self._journal, wire, line.outbox, record, self.time)

    async def resume(self, resume: Resume, request: Request) -> Attachment:
        """Take a conversation over from a socket that was lost, or is about to be.

        Args:
            resume: what is asked for.
            request: of the socket, which a conversation of another process goes on with.

        Raises:
            ConnectionEnd: there is none of this id, or the token is not its own; or there is no
                place for it here.
        """
        key = resume.key
        kept = self._kept.get(key.session_id)
        if kept is not None and await self._is_gone(kept):
            kept = None
        if kept is None and self._journal is not None:
            async with self._taking.setdefault(key.session_id, asyncio.Lock()):
                if key.session_id not in self._kept:
                    return await self._take_over(self._journal, resume, request)
            kept = self._kept.get(key.session_id)
        if kept is None or kept.is_over.is_set():
            raise self._forgotten()
        if not _has_token(kept, key.resume_token):
            error = WireError(
                "this is not the resume_token of that conversation's session.created",
                "invalid_resume_token",
            )
            raise ConnectionEnd(error, CloseCode.NOT_FOUND)
        if kept.abandoning is not None:
            kept.abandoning.cancel()
            kept.abandoning = None
        kept.holder.is_lost.set()
        before = kept.holder
        kept.holder = replace(before, generation=before.generation + 1, is_lost=asyncio.Event())
        return kept.holder

    async def _is_gone(self, kept: KeptConversation) -> bool:
        """Whether another process has gone on with it, which this one may not have found out."""
        keeper = kept.keeper
        if keeper is None or await keeper.write(kept.holder.conversation):
            return False
        if keeper.is_taken_over:
            self._end_moved(kept)
            if kept.keeping is not None:
                await asyncio.wait([kept.keeping])
        return keeper.is_taken_over

    async def _take_over(self, journal: Journal, resume: Resume, request: Request) -> Attachment:
        """Go on with a conversation of another process, which may have ended without a word."""
        place = self.admission.enter()
        if place is None:
            raise ConnectionEnd(None, CloseCode.MOVED, "no_place_here")
        wire = request.wire
        with self._until_held(place) as until_held:
            record, past = await self._taken(journal, resume, wire)
            outbox: Outbox[Any] = Outbox.taken_up(wire.encode, record.num_messages, record.messages)
            line = Line(wire, outbox)
            keeper = self._keeper(line, record)
            options = replace(request.options, counts=self.counts, is_kept=True)
            taking_up = self._in_turn(
                Conversation.take_up(self._engine, past, options, line.tell, self.time)
            )
            return await self._hold(until_held, place, line, keeper, taking_up, record.generation)

    async def _in_turn(self, taking_up: Coroutine[None, None, Conversation]) -> Conversation:
        """One after the other: where many come at once, the first need not wait for the last."""
        async with self._taking_up:
            return await taking_up

    async def _taken(
        self, journal: Journal, resume: Resume, wire: AnyWire
    ) -> tuple[JournalRecord, KeptPast]:
        try:
            key, num_received = resume.key, resume.num_received
            record = await journal.take(key.session_id, key.resume_token, num_received)
        except JournalError as error:
            raise ConnectionEnd(None, CloseCode.MOVED, "journal_away") from error
        if record is None:
            raise self._forgotten()
        try:
            wire.take_up(record.wire_state)
            return record, KeptPast(record)
        except Exception as error:
            # As where another version of ours has written it.
            logger.exception("a conversation's record cannot be read")
            raise self._forgotten() from error

    def _forgotten(self) -> ConnectionEnd:
        error = WireError(
            f"there is no such conversation to resume; a dropped one waits for "
            f"{self._kept_seconds:g} s, then a new one has to be started",
            "session_resume_expired",
        )
        return ConnectionEnd(error, CloseCode.NOT_FOUND)

    def observe(self, wire: AnyWire, observation: Observation) -> Attachment:
        """Look at and steer a conversation that stays another socket's.

        Raises:
            ConnectionEnd: there is none of this id and protocol, or too many look at it.
        """
        kept = self._kept.get(observation.session_id)
        if kept is None or kept.is_over.is_set():
            error = WireError("there is no such session, or it is over", "session_not_found")
            raise ConnectionEnd(error, CloseCode.NOT_FOUND)
        observed = kept.holder.line
        if len(observed.observers) >= MAX_OBSERVERS:
            error = WireError(
                f"{MAX_OBSERVERS} clients look at this session already", "too_many_observers"
            )
            raise ConnectionEnd(error, CloseCode.POLICY)
        try:
            greeting = observation.begin(observed.wire)
        except WireError as error:
            raise ConnectionEnd(error, CloseCode.NOT_FOUND) from error
        line = ObserverLine(wire, observed)
        line.outbox.put(greeting)
        return replace(kept.holder, line=line, is_lost=asyncio.Event())

    def hang_up(self, session_id: str) -> bool:
        """End a conversation from elsewhere; whether there was one of this id."""
        kept = self._kept.get(session_id)
        if kept is None or kept.is_over.is_set():
            return False
        kept.holder.conversation.end(EndReason.CLIENT)
        kept.is_over.set()
        return True

    async def hand_over(self) -> None:
        """Let nobody in, and have clients take their conversations up elsewhere, where they can.

        Each is asked to at its next silence, and soon in any case.
        """
        self.admission.close()
        async with asyncio.TaskGroup() as tasks:
            for kept in list(self._kept.values()):
                if kept.keeper is not None and kept.keeper.is_kept:
                    tasks.create_task(self._move(kept, kept.keeper))

    async def _move(self, kept: KeptConversation, keeper: RecordKeeper) -> None:
        conversation = kept.holder.conversation
        until = self.time.now() + LONGEST_REPLY_SECONDS
        while conversation.is_replying and self.time.now() < until and not kept.is_over.is_set():
            await self.time.sleep(SILENCE_LOOK_SECONDS)
        if await keeper.write(conversation):
            # What is told from now on is told by whoever goes on with it.
            keeper.is_taken_over = True
            kept.holder.is_moved = True
            self._end_moved(kept)

    def let_go(self, attachment: Attachment) -> None:
        """The socket is gone: the conversation ends, at once or if no other socket comes."""
        attachment.line.leave()
        kept = self._kept.get(attachment.line.wire.key.session_id)
        if kept is None or kept.holder is not attachment:
            return
        if attachment.line.wire.is_resumable:
            kept.abandoning = asyncio.create_task(self._abandon(kept))
        else:
            kept.is_over.set()

    def end(self, attachment: Attachment) -> None:
        """End the conversation at once, unless another socket has taken it over."""
        kept = self._kept.get(attachment.line.wire.key.session_id)
        if kept is not None and kept.holder is attachment:
            kept.is_over.set()

    def _give_back(self, place: Place) -> None:
        self.admission.leave(place)
        self._has_ended()

    async def _keep(self, kept: KeptConversation) -> None:
        """Run a conversation until it is over, then free all that it had but its place."""
        conversation = kept.holder.conversation
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(conversation.run())
                running.add_done_callback(lambda _: kept.is_over.set())
                line = kept.holder.line
                going_on = [running, tasks.create_task(line.wire.run(line.answer, self.time))]
                if kept.keeper is not None:
                    writing = tasks.create_task(kept.keeper.run(conversation))
                    writing.add_done_callback(lambda _: self._end_moved(kept))
                    going_on.append(writing)
                await kept.is_over.wait()
                for task in going_on:
                    task.cancel()
                    try:
                        await task
                    except asyncio.CancelledError as cancelled:
                        # It, and the frames that it went through, would hold all that they had.
                        clear_frames(cancelled.__traceback__)
        except* Exception:
            # What breaks one conversation ends it and no other.
            logger.exception("a conversation failed")
            self.counts.num_failures += 1
            conversation.fail(SESSION_FAILURE)
        finally:
            del self._kept[kept.holder.line.wire.key.session_id]
            if kept.abandoning is not None:
                kept.abandoning.cancel()
                kept.abandoning = None
            if kept.keeper is None or not kept.keeper.is_taken_over:
                conversation.end(EndReason.LEFT)
            try:
                if kept.keeper is not None:
                    await kept.keeper.end()
                await conversation.close()
            except Exception:
                # Its place is another's now, whatever is left of it.
                logger.exception("a conversation could not be closed")

    def _end_moved(self, kept: KeptConversation) -> None:
        if kept.keeper is not None and kept.keeper.is_taken_over:
            kept.holder.is_lost.set()
            kept.is_over.set()

    async def _opened(self, opening: Coroutine[None, None, Conversation]) -> Conversation:
        try:
            return await opening
        except AudioInteractionError as error:
            raise connection_end(error) from error
        except Exception as error:
            # A device that has no memory left, say: others converse on.
            logger.exception("a conversation could not be opened")
            self.counts.num_failures += 1
            raise ConnectionEnd(session_failed(), CloseCode.SESSION_FAILED) from error

    async def _abandon(self, kept: KeptConversation) -> None:
        await self.time.sleep(self._kept_seconds)
        kept.is_over.set()


def _has_token(kept: KeptConversation, resume_token: str) -> bool:
    expected = kept.holder.line.wire.key.resume_token
    return secrets.compare_digest(expected.encode(), resume_token.encode())
