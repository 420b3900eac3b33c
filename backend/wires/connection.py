"""One client's socket: what arrives is followed by a conversation, what that tells is sent."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from backend.admission import Place, Waiter
from backend.allowance import MESSAGE_SECONDS, TokenBucket
from backend.conversation.events import ConversationEnded, EndReason
from backend.errors import AudioInteractionError, SessionLimitError
from backend.wires.conversations import Attachment, Conversations
from backend.wires.errors import (
    CloseCode,
    ConnectionEnd,
    WireError,
    as_wire_error,
    connection_end,
    session_failed,
)
from backend.wires.outbox import MessagesLostError
from backend.wires.wire import (
    Acknowledge,
    AnyWire,
    Beat,
    Beaten,
    ClientMessage,
    Close,
    FirstMessage,
    Message,
    MessagesLost,
    Queued,
    QueueDone,
    Refused,
    Replaced,
    Request,
    Resume,
    Resumed,
    SocketCommand,
    SocketEvent,
)

logger = logging.getLogger(__name__)

Send = Callable[[str], Awaitable[None]]

PATIENCE_SECONDS = 1.0
"""A message that takes longer no longer keeps the client's next ones waiting."""
MAX_UNDER_WAY = 16
"""Messages of one socket that take so long; with more of them the next ones do wait."""
MAX_HELD_MESSAGES = 16
MAX_HELD_CHARACTERS = 256 * 1024
"""Of what a client sends while it waits in line: its settings, no sound."""


class Messages(Protocol):
    """A client's messages until it goes; waiting for the next may be cancelled."""

    @property
    def has_left(self) -> bool:
        """Whether the client went on purpose: it closed the socket, and did not lose it."""

    def __aiter__(self) -> AsyncIterator[Message]: ...

    async def __anext__(self) -> Message: ...


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """How much one socket may send; a whole clip in one go is well within."""

    messages_per_second: float = 1000.0
    message_burst: float = 4000.0
    characters_per_second: float = 2.0 * 1024 * 1024
    character_burst: float = 48.0 * 1024 * 1024
    """As base64 more than five minutes of PCM16 at 48 kHz."""
    errors_per_second: float = 10.0
    error_burst: float = 200.0
    """Messages that cannot be honoured; a client that sends more of them is let go."""


class Connection:
    """Serves one socket from its first message to its last.

    Args:
        conversations: where a conversation comes from, and stays when the socket is lost.
        request: what the client's address asks for.
        messages: what the client sends.
        send: delivers one message to the client, in order.
        limits: of what the client may send.
    """

    def __init__(
        self,
        conversations: Conversations,
        request: Request,
        messages: Messages,
        send: Send,
        limits: SocketLimits | None = None,
    ) -> None:
        self._conversations = conversations
        self._request = request
        self._wire: AnyWire = request.wire
        """Of the conversation, once there is one."""
        self._messages = messages
        self._deliver = send
        limits, time = limits or SocketLimits(), conversations.time
        self._messages_allowed = TokenBucket(limits.messages_per_second, limits.message_burst, time)
        self._characters_allowed = TokenBucket(
            limits.characters_per_second, limits.character_burst, time
        )
        self._loop_share = conversations.loop_time.share()
        self._errors_allowed = TokenBucket(limits.errors_per_second, limits.error_burst, time)
        self._held: list[ClientMessage | SocketCommand] = []
        self._num_held_characters = 0
        self._under_way: set[asyncio.Task[None]] = set()
        """Messages that may take a while."""
        self._num_sent = 0
        """Number of the newest message that the client has or is about to have."""

    async def run(self) -> None:
        """Serve until the client goes.

        Raises:
            ConnectionEnd: alone or in a group, when the server has to close the socket.
        """
        attachment = await self._attach()
        if attachment is None:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(self._loop_share.run(self._send, attachment)),
                    tasks.create_task(self._give_way(attachment)),
                ]
                await self._receive(attachment, tasks)
                if self._messages.has_left:
                    self._conversations.end(attachment)
                for other in (*others, *self._under_way):
                    other.cancel()
        finally:
            self._conversations.let_go(attachment)

    async def _attach(self) -> Attachment | None:
        """The conversation that this socket is for; None if the client went meanwhile."""
        if self._request.observes is not None:
            return self._conversations.observe(self._wire, self._request.observes)
        if self._request.first_message is not None:
            return await self._begin(self._request.first_message)
        return await self._open(self._request)

    async def _begin(self, expected: FirstMessage) -> Attachment | None:
        """What the first message asks for; None if the client went meanwhile."""
        text = await self._first_message(expected)
        if text is None:
            return None
        try:
            message = self._wire.read(text)
        except WireError as error:
            raise ConnectionEnd(error, CloseCode.POLICY) from error
        match message:
            case Resume():
                return await self._resume(message)
            case Acknowledge() | Beat() | Close():
                request = self._request
            case _:
                # What is told when it begins then tells of the conversation that was asked for.
                request = self._configured(message)
        self._held.append(message)
        return await self._open(request)

    async def _open(self, request: Request) -> Attachment | None:
        """A new conversation; None if the client went meanwhile."""
        place = await self._place()
        if place is None:
            return None
        return await self._conversations.open(place, request)

    def _configured(self, message: ClientMessage) -> Request:
        """What is asked for by a socket whose first message is `message`.

        Raises:
            ConnectionEnd: it cannot be.
        """
        try:
            return self._wire.begin(message, self._request)
        except AudioInteractionError as error:
            named = as_wire_error(error)
            named.event_id = message.event_id
            raise ConnectionEnd(named, CloseCode.POLICY) from error

    async def _place(self) -> Place | None:
        """The right to a conversation, after a wait if need be; None if the client went."""
        admission = self._conversations.admission
        if (place := admission.enter()) is not None:
            return place
        if self._wire.is_resumable:
            if admission.has_room_elsewhere:
                raise _place_elsewhere()
            if (waiter := admission.queue_up()) is not None:
                return await self._wait_in_line(waiter)
        raise connection_end(SessionLimitError("every conversation is taken; try again later"))

    async def _wait_in_line(self, waiter: Waiter) -> Place | None:
        try:
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(self._tell_standings(waiter))
                reading = tasks.create_task(self._hold_messages())
                await asyncio.wait([waiting, reading], return_when=asyncio.FIRST_COMPLETED)
                has_gone = reading.done()
                waiting.cancel()
                reading.cancel()
            if not has_gone:
                await self._say(QueueDone(waiter.ticket_id))
        except BaseException:
            self._conversations.admission.step_out(waiter)
            raise
        if has_gone:
            self._conversations.admission.step_out(waiter)
            return None
        return waiter.place

    async def _tell_standings(self, waiter: Waiter) -> None:
        is_first = True
        admission = self._conversations.admission
        async for standing in admission.standings(waiter):
            if admission.is_to_move(waiter):
                raise _place_elsewhere()
            await self._say(Queued(waiter.ticket_id, standing, is_first))
            is_first = False

    async def _hold_messages(self) -> None:
        """Keep what comes before there is a conversation; returns when the client has gone."""
        async for message in self._messages:
            try:
                await self._loop_share.run(self._hold, message)
            except WireError as error:
                self._count_error()
                await self._say(Refused(error))
            await self._allow(message)

    async def _hold(self, text: Message) -> None:
        message = self._wire.read(text)
        match message:
            case Beat():
                await self._say(Beaten())
            case Close():
                await self._say(ConversationEnded(EndReason.CLIENT))
                ending = self._wire.ending(EndReason.CLIENT)
                raise ConnectionEnd(None, ending.close_code, ending.reason)
            case _:
                num_characters = self._num_held_characters + len(text)
                if num_characters > MAX_HELD_CHARACTERS or len(self._held) >= MAX_HELD_MESSAGES:
                    raise WireError(
                        "this client waits in line; send audio once session.created has come",
                        "session_queued",
                        event_id=message.event_id,
                    )
                self._num_held_characters = num_characters
                self._held.append(message)

    async def _resume(self, command: Resume) -> Attachment:
        attachment = await self._conversations.resume(command, self._request)
        try:
            await self._catch_up(attachment, command.num_received)
        except BaseException:
            self._conversations.let_go(attachment)
            raise
        return attachment

    async def _catch_up(self, attachment: Attachment, num_received: int) -> None:
        """Say where both sides stand; what the client has missed is sent next."""
        self._wire, outbox = attachment.line.wire, attachment.line.outbox
        if num_received > outbox.last_number:
            error = WireError(
                f"there are {outbox.last_number} events, not {num_received}",
                "invalid_session_resume",
                "last_received_server_event_seq",
            )
            raise ConnectionEnd(error, CloseCode.POLICY)
        self._num_sent = max(num_received, outbox.oldest_number - 1)
        outbox.forget(num_received)
        async with attachment.obeying:
            arrived_seconds = attachment.conversation.arrived_seconds
        await self._say(Resumed(attachment.generation, arrived_seconds))
        if self._num_sent > num_received:
            await self._say(MessagesLost(self._num_sent - num_received))

    async def _first_message(self, expected: FirstMessage) -> Message | None:
        try:
            async with asyncio.timeout(expected.wait_seconds):
                return await anext(self._messages, None)
        except TimeoutError as timeout:
            error = WireError(
                f"the first message is {expected.expected}, within {expected.wait_seconds:g} s",
                "first_message_expected",
            )
            raise ConnectionEnd(error, CloseCode.POLICY) from timeout

    async def _receive(self, attachment: Attachment, tasks: asyncio.TaskGroup) -> None:
        for held in self._held:
            await self._answer(held, attachment, tasks)
        self._held.clear()
        async for text in self._messages:
            # What comes over a socket that was replaced is sent again over the new one.
            if not attachment.is_lost.is_set():
                await self._loop_share.run(self._answer, text, attachment, tasks)
            await self._allow(text)

    async def _answer(
        self,
        message: Message | ClientMessage | SocketCommand,
        attachment: Attachment,
        tasks: asyncio.TaskGroup,
    ) -> None:
        try:
            if isinstance(message, str | bytes):
                message = self._wire.read(message)
        except Exception as error:  # sorted out there
            self._refuse(error, None, attachment)
        else:
            if isinstance(message, SocketCommand) or not self._wire.takes_time(message):
                await self._follow(message, attachment)
            else:
                await self._set_about(message, attachment, tasks)

    async def _set_about(
        self, message: ClientMessage, attachment: Attachment, tasks: asyncio.TaskGroup
    ) -> None:
        """Have a message obeyed that may take a while, and wait for that a little."""
        patience: float | None = 0 if self._under_way else PATIENCE_SECONDS
        if len(self._under_way) >= MAX_UNDER_WAY:
            patience = None
        task = tasks.create_task(self._follow(message, attachment))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.wait([task], timeout=patience)

    async def _follow(self, message: ClientMessage | SocketCommand, attachment: Attachment) -> None:
        try:
            if isinstance(message, SocketCommand):
                await self._obey(message, attachment)
            else:
                # What was begun is done to its end, also if the socket breaks meanwhile.
                await asyncio.shield(self._loop_share.run(attachment.obey, message))
        except Exception as error:  # sorted out there
            self._refuse(error, message.event_id, attachment)

    def _refuse(self, error: Exception, event_id: str | None, attachment: Attachment) -> None:
        """Tell the client that a message of its own cannot be obeyed.

        Raises:
            ConnectionEnd: it was one too many, or has left something half done; this is no lost
                socket, and the conversation is not to be taken up.
        """
        try:
            if not isinstance(error, AudioInteractionError):
                logger.error("a message could not be obeyed", exc_info=error)
                raise ConnectionEnd(session_failed(), CloseCode.SESSION_FAILED) from error
            named = as_wire_error(error)
            named.event_id = named.event_id or event_id
            attachment.line.say(Refused(named))
            self._count_error()
        except ConnectionEnd:
            self._conversations.end(attachment)
            raise

    async def _obey(self, command: SocketCommand, attachment: Attachment) -> None:
        match command:
            case Resume():
                raise _resume_unexpected(command)
            case Acknowledge():
                attachment.line.outbox.forget(min(command.number, self._num_sent))
            case Beat():
                if command.is_active:
                    attachment.conversation.activity()
                attachment.line.say(Beaten())
            case Close():
                attachment.conversation.end(EndReason.CLIENT)
                self._conversations.end(attachment)

    async def _send(self, attachment: Attachment) -> None:
        outbox, is_resumable = attachment.line.outbox, self._wire.is_resumable
        try:
            async for message in outbox.after(self._num_sent):
                self._num_sent = message.number
                await self._deliver(message.text)
                if not is_resumable:
                    outbox.forget(message.number)
        except MessagesLostError as error:
            slow = WireError("events come faster than this client reads them", "client_too_slow")
            raise ConnectionEnd(slow, CloseCode.POLICY) from error
        assert outbox.ending is not None, "an outbox without an end goes on"
        raise ConnectionEnd(None, outbox.ending.close_code, outbox.ending.reason)

    async def _give_way(self, attachment: Attachment) -> None:
        await attachment.is_lost.wait()
        if attachment.is_moved:
            raise ConnectionEnd(None, CloseCode.MOVED, "moved")
        await self._say(Replaced())
        raise ConnectionEnd(None, CloseCode.REPLACED, "session_replaced")

    async def _allow(self, message: Message) -> None:
        """Do not read on before this client may send more."""
        await self._messages_allowed.take(1)
        await self._characters_allowed.take(len(message))
        self._loop_share.charge(MESSAGE_SECONDS)
        await self._loop_share.settle()

    def _count_error(self) -> None:
        if not self._errors_allowed.take_now(1):
            error = WireError(
                "too many messages of this client could not be honoured", "too_many_errors"
            )
            raise ConnectionEnd(error, CloseCode.POLICY)

    async def _say(self, event: SocketEvent | ConversationEnded) -> None:
        """Tell of this socket alone: it is not numbered, and not told again after a resume."""
        for message in self._wire.write(event):
            if (text := self._wire.encode(message, None)) is not None:
                await self._deliver(text)


def _place_elsewhere() -> ConnectionEnd:
    """A client that comes again is let in by another server."""
    return ConnectionEnd(None, CloseCode.MOVED, "place_elsewhere")


def _resume_unexpected(command: Resume) -> WireError:
    return WireError(
        "this socket has a conversation already; connect with autostart=0 to take up another",
        "session_already_attached",
        event_id=command.event_id,
    )
