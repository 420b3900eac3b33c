"""Every conversation of a server: who holds it, and for how long it outlives a lost socket."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from traceback import clear_frames
from typing import Any

from backend.admission import Admission, Place
from backend.allowance import LoopTime
from backend.conversation.conversation import Conversation
from backend.conversation.events import ConversationEnded, ConversationEvent, EndReason
from backend.conversation.model_session import SessionOpener
from backend.errors import AudioInteractionError, EngineFailedError, SessionLimitError
from backend.lateness import Lateness
from backend.recordings.live import Recordings
from backend.timing import WorkTime
from backend.wires.errors import (
    SESSION_FAILURE,
    CloseCode,
    ConnectionEnd,
    WireError,
    as_wire_error,
    session_failed,
)
from backend.wires.outbox import Outbox
from backend.wires.wire import (
    AnyWire,
    ClientMessage,
    Observation,
    Request,
    SessionKey,
    SocketEvent,
)

logger = logging.getLogger(__name__)

KEPT_SECONDS = 60.0
"""A conversation whose socket dropped waits this long for another."""


MAX_OBSERVERS = 4
"""Of one conversation: each is told all of it."""


class Line:
    """A conversation's line to its client: its wire, and what the client is told over it."""

    def __init__(self, wire: AnyWire) -> None:
        self.wire = wire
        self.outbox: Outbox[Any] = Outbox(wire.encode)
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
    """Another socket has taken over."""

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
    """

    def __init__(
        self,
        engine: SessionOpener,
        admission: Admission,
        time: WorkTime,
        kept_seconds: float = KEPT_SECONDS,
        recordings: Recordings | None = None,
        has_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.admission = admission
        self.time = time
        self.loop_time = LoopTime(time)
        """Of which each socket may take its share."""
        self.lateness = Lateness(time.now)
        """Of the decisions in all of them."""
        self._engine = engine
        self._kept_seconds = kept_seconds
        self._recordings = recordings
        self._has_ended = has_ended
        self._kept: dict[str, KeptConversation] = {}

    async def open(self, place: Place, request: Request) -> Attachment:
        """Start a conversation in `place`, which is given back when it is over.

        Args:
            place: the right to it.
            request: what its client asks for.

        Raises:
            ConnectionEnd: the engine cannot open it; the place is given back.
        """
        with ExitStack() as until_kept:
            until_kept.callback(self.admission.leave, place)
            line = Line(request.wire)
            conversation = await self._open(request, line)
            kept = KeptConversation(Attachment(conversation, line))
            self._kept[line.wire.key.session_id] = kept
            kept.keeping = asyncio.create_task(self._keep(kept))
            # Whatever becomes of the task, it ends, and gives the place back.
            kept.keeping.add_done_callback(lambda _: self._give_back(place))
            until_kept.pop_all()
        return kept.holder

    def resume(self, key: SessionKey) -> Attachment:
        """Take a conversation over from a socket that was lost, or is about to be.

        Raises:
            ConnectionEnd: there is none of this id, or the token is not its own.
        """
        kept = self._kept.get(key.session_id)
        if kept is None or kept.is_over.is_set():
            error = WireError(
                f"there is no such conversation to resume; a dropped one waits for "
                f"{self._kept_seconds:g} s, then a new one has to be started",
                "session_resume_expired",
            )
            raise ConnectionEnd(error, CloseCode.NOT_FOUND)
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
                telling = tasks.create_task(line.wire.run(line.answer, self.time))
                await kept.is_over.wait()
                for task in (running, telling):
                    task.cancel()
                    try:
                        await task
                    except asyncio.CancelledError as cancelled:
                        # It, and the frames that it went through, would hold all that they had.
                        clear_frames(cancelled.__traceback__)
        except* Exception:
            # What breaks one conversation ends it and no other.
            logger.exception("a conversation failed")
            conversation.fail(SESSION_FAILURE)
        finally:
            del self._kept[kept.holder.line.wire.key.session_id]
            if kept.abandoning is not None:
                kept.abandoning.cancel()
                kept.abandoning = None
            conversation.end(EndReason.LEFT)
            try:
                await conversation.close()
            except Exception:
                # Its place is another's now, whatever is left of it.
                logger.exception("a conversation could not be closed")

    async def _open(self, request: Request, line: Line) -> Conversation:
        options = replace(request.options, lateness=self.lateness)
        try:
            return await Conversation.open(
                self._engine,
                request.defaults,
                options,
                line.tell,
                self.time,
                self._recordings,
            )
        except SessionLimitError as error:
            raise ConnectionEnd(as_wire_error(error), CloseCode.FULL) from error
        except EngineFailedError as error:
            raise ConnectionEnd(as_wire_error(error), CloseCode.SESSION_FAILED) from error
        except AudioInteractionError as error:
            raise ConnectionEnd(as_wire_error(error), CloseCode.POLICY) from error
        except Exception as error:
            # A device that has no memory left, say: others converse on.
            logger.exception("a conversation could not be opened")
            raise ConnectionEnd(session_failed(), CloseCode.SESSION_FAILED) from error

    async def _abandon(self, kept: KeptConversation) -> None:
        await self.time.sleep(self._kept_seconds)
        kept.is_over.set()


def _has_token(kept: KeptConversation, resume_token: str) -> bool:
    expected = kept.holder.line.wire.key.resume_token
    return secrets.compare_digest(expected.encode(), resume_token.encode())
