"""One client's socket: what arrives is obeyed by a conversation, what that tells is sent."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Protocol

from backend.admission import Place, Standing, Waiter
from backend.conversation.conversation import ConversationOptions
from backend.conversation.settings import ConversationSettings
from backend.errors import AudioInteractionError, SessionLimitError
from backend.wires.allowance import TokenBucket
from backend.wires.conversations import Attachment, Conversations
from backend.wires.errors import (
    CloseCode,
    ConnectionEnd,
    WireError,
    as_wire_error,
    session_failure,
)
from backend.wires.outbox import EventsLostError
from backend.wires.realtime.client_messages import (
    AckEvent,
    AnyClientEvent,
    CloseSession,
    Heartbeat,
    ResumeSession,
    SessionUpdate,
    parse_client_event,
)
from backend.wires.realtime.dialect import Dialect
from backend.wires.realtime.server_messages import WireEvent, error_event, wire_event

logger = logging.getLogger(__name__)

Send = Callable[[str], Awaitable[None]]
Message = str | bytes

FIRST_MESSAGE_SECONDS = 10.0
"""A socket whose first message says what it is for must say so by then."""
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


class Start(Enum):
    """When a socket has its conversation."""

    AT_ONCE = auto()
    """A new one, as soon as there is room."""
    FIRST_MESSAGE = auto()
    """`session.resume` takes up one whose socket was lost; anything else begins a new one."""


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


@dataclass(frozen=True, slots=True)
class Request:
    """What a client's address asks for."""

    options: ConversationOptions
    defaults: ConversationSettings
    """Before the client changes it."""
    start: Start = Start.AT_ONCE


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
        self._messages = messages
        self._deliver = send
        limits, time = limits or SocketLimits(), conversations.time
        self._messages_allowed = TokenBucket(limits.messages_per_second, limits.message_burst, time)
        self._characters_allowed = TokenBucket(
            limits.characters_per_second, limits.character_burst, time
        )
        self._errors_allowed = TokenBucket(limits.errors_per_second, limits.error_burst, time)
        self._held: list[AnyClientEvent] = []
        self._num_held_characters = 0
        self._num_sent = 0
        """Number of the newest event that the client has or is about to have."""

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
                    tasks.create_task(self._send(attachment)),
                    tasks.create_task(self._give_way(attachment)),
                ]
                try:
                    await self._receive(attachment)
                except ConnectionEnd:
                    # Not a lost socket: nobody is to take this conversation up.
                    self._conversations.end(attachment)
                    raise
                if self._messages.has_left:
                    self._conversations.end(attachment)
                for other in others:
                    other.cancel()
        finally:
            self._conversations.let_go(attachment)

    async def _attach(self) -> Attachment | None:
        """The conversation that this socket is for; None if the client went meanwhile."""
        match self._request.start:
            case Start.FIRST_MESSAGE:
                return await self._begin()
            case Start.AT_ONCE:
                return await self._open(self._request.defaults)

    async def _begin(self) -> Attachment | None:
        """What the first message asks for; None if the client went meanwhile."""
        message = await self._first_message()
        if message is None:
            return None
        config = self._request.defaults
        match event := _parse_first(message):
            case ResumeSession():
                return await self._resume(event)
            case SessionUpdate():
                # `session.created` then tells of the conversation that was asked for.
                config = self._configured(event)
        self._held.append(event)
        return await self._open(config)

    async def _open(self, config: ConversationSettings) -> Attachment | None:
        """A new conversation; None if the client went meanwhile."""
        place = await self._place()
        if place is None:
            return None
        return await self._conversations.open(place, self._request.options, config)

    def _configured(self, update: SessionUpdate) -> ConversationSettings:
        """The settings of a conversation that begins with `update`.

        Raises:
            ConnectionEnd: they cannot be.
        """
        try:
            config = self._request.defaults.merged(update.session)
            voice = self._request.options.voices.find_voice(config.voice)
        except AudioInteractionError as error:
            named = as_wire_error(error)
            named.event_id = update.event_id
            raise ConnectionEnd(named, CloseCode.POLICY) from error
        return replace(config, voice=voice)

    async def _place(self) -> Place | None:
        """The right to a conversation, after a wait if need be; None if the client went."""
        admission = self._conversations.admission
        if (place := admission.enter()) is not None:
            return place
        if self._is_duplex and (waiter := admission.queue_up()) is not None:
            return await self._wait_in_line(waiter)
        full = SessionLimitError("every conversation is taken; try again later")
        raise ConnectionEnd(as_wire_error(full), CloseCode.FULL)

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
                await self._say(wire_event("session.queue_done", ticket_id=waiter.ticket_id))
        except BaseException:
            self._conversations.admission.step_out(waiter)
            raise
        if has_gone:
            self._conversations.admission.step_out(waiter)
            return None
        return waiter.place

    async def _tell_standings(self, waiter: Waiter) -> None:
        event_type = "session.queued"
        async for standing in self._conversations.admission.standings(waiter):
            await self._say(_standing_event(event_type, waiter, standing))
            event_type = "session.queue_update"

    async def _hold_messages(self) -> None:
        """Keep what comes before there is a conversation; returns when the client has gone."""
        async for message in self._messages:
            try:
                await self._hold(message)
            except WireError as error:
                self._count_error()
                await self._say(error_event(error))
            await self._allow(message)

    async def _hold(self, message: Message) -> None:
        event = _parse(message)
        match event:
            case Heartbeat():
                await self._say(wire_event("session.heartbeat_ack"))
            case CloseSession():
                await self._say(wire_event("session.closed", reason="client_request"))
                raise ConnectionEnd(None, CloseCode.NORMAL, "client_request")
            case _:
                num_characters = self._num_held_characters + len(message)
                if num_characters > MAX_HELD_CHARACTERS or len(self._held) >= MAX_HELD_MESSAGES:
                    raise WireError(
                        "this client waits in line; send audio once session.created has come",
                        "session_queued",
                        event_id=event.event_id,
                    )
                self._num_held_characters = num_characters
                self._held.append(event)

    async def _resume(self, event: ResumeSession) -> Attachment:
        attachment = self._conversations.resume(event.session_id, event.resume_token)
        try:
            await self._catch_up(attachment, event.last_received_server_event_seq)
        except BaseException:
            self._conversations.let_go(attachment)
            raise
        return attachment

    async def _catch_up(self, attachment: Attachment, num_received: int) -> None:
        """Say where both sides stand; what the client has missed is sent next."""
        conversation, outbox = attachment.conversation, attachment.conversation.outbox
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
            input_seconds = conversation.input_seconds
        await self._say(
            wire_event(
                "session.resumed",
                session_id=conversation.session_id,
                attachment_generation=attachment.generation,
                input_seconds=input_seconds,
            )
        )
        if self._num_sent > num_received:
            await self._say(
                wire_event(
                    "session.resync_required",
                    reason="events_lost",
                    session_id=conversation.session_id,
                    num_events_lost=self._num_sent - num_received,
                )
            )

    async def _first_message(self) -> Message | None:
        try:
            async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
                return await anext(self._messages, None)
        except TimeoutError as timeout:
            error = WireError(
                "with autostart=0 the first message is session.update or session.resume, within "
                f"{FIRST_MESSAGE_SECONDS:g} s",
                "first_message_expected",
            )
            raise ConnectionEnd(error, CloseCode.POLICY) from timeout

    async def _receive(self, attachment: Attachment) -> None:
        for event in self._held:
            await self._answer(event, attachment)
        self._held.clear()
        async for message in self._messages:
            # What comes over a socket that was replaced is sent again over the new one.
            if not attachment.is_lost.is_set():
                await self._answer(message, attachment)
            await self._allow(message)

    async def _answer(self, message: Message | AnyClientEvent, attachment: Attachment) -> None:
        event_id = None
        try:
            event = _parse(message) if isinstance(message, str | bytes) else message
            event_id = event.event_id
            await self._obey(event, attachment)
        except AudioInteractionError as error:
            named = as_wire_error(error)
            named.event_id = named.event_id or event_id
            attachment.conversation.report(named)
            self._count_error()
        except ConnectionEnd:
            raise
        except Exception as error:
            # What it has left half done, nobody can go on with.
            logger.exception("a message could not be obeyed")
            raise ConnectionEnd(session_failure(), CloseCode.SESSION_FAILED) from error

    async def _obey(self, event: AnyClientEvent, attachment: Attachment) -> None:
        conversation = attachment.conversation
        match event:
            case ResumeSession():
                raise _resume_unexpected()
            case AckEvent():
                conversation.outbox.forget(min(event.server_event_seq, self._num_sent))
            case Heartbeat():
                if event.active:
                    conversation.activity()
                conversation.outbox.put([wire_event("session.heartbeat_ack")])
            case CloseSession():
                closed = wire_event("session.closed", reason="client_request")
                conversation.end(CloseCode.NORMAL, "client_request", closed)
                self._conversations.end(attachment)
            case _:
                # What was begun is done to its end, also if the socket breaks meanwhile.
                await asyncio.shield(_obey_whole(event, attachment))

    async def _send(self, attachment: Attachment) -> None:
        outbox = attachment.conversation.outbox
        try:
            async for event in outbox.after(self._num_sent):
                self._num_sent = event.number
                await self._deliver(event.text)
                if not self._is_duplex:
                    outbox.forget(event.number)
        except EventsLostError as error:
            slow = WireError("events come faster than this client reads them", "client_too_slow")
            raise ConnectionEnd(slow, CloseCode.POLICY) from error
        assert outbox.ending is not None, "an outbox without an end goes on"
        raise ConnectionEnd(None, outbox.ending.close_code, outbox.ending.reason)

    async def _give_way(self, attachment: Attachment) -> None:
        await attachment.is_lost.wait()
        session_id = attachment.conversation.session_id
        await self._say(wire_event("session.replaced", session_id=session_id))
        raise ConnectionEnd(None, CloseCode.REPLACED, "session_replaced")

    async def _allow(self, message: Message) -> None:
        """Do not read on before this client may send more."""
        await self._messages_allowed.take(1)
        await self._characters_allowed.take(len(message))

    def _count_error(self) -> None:
        if not self._errors_allowed.take_now(1):
            error = WireError(
                "too many messages of this client could not be honoured", "too_many_errors"
            )
            raise ConnectionEnd(error, CloseCode.POLICY)

    async def _say(self, event: WireEvent) -> None:
        """Tell of this socket alone: it is not numbered, and not told again after a resume."""
        await self._deliver(json.dumps(event, ensure_ascii=False))

    @property
    def _is_duplex(self) -> bool:
        return self._request.options.dialect is Dialect.DUPLEX


async def _obey_whole(event: AnyClientEvent, attachment: Attachment) -> None:
    async with attachment.obeying:
        await attachment.conversation.obey(event)


def _parse(message: Message) -> AnyClientEvent:
    if isinstance(message, bytes):
        raise WireError("events are JSON in text messages, not binary", "binary_message")
    return parse_client_event(message)


def _parse_first(message: Message) -> AnyClientEvent:
    """The message that says what a socket is for.

    Raises:
        ConnectionEnd: it says nothing.
    """
    try:
        return _parse(message)
    except WireError as error:
        raise ConnectionEnd(error, CloseCode.POLICY) from error


def _resume_unexpected() -> WireError:
    return WireError(
        "this socket has a conversation already; connect with autostart=0 to take up another",
        "session_already_attached",
    )


def _standing_event(event_type: str, waiter: Waiter, standing: Standing) -> WireEvent:
    return wire_event(
        event_type,
        ticket_id=waiter.ticket_id,
        position=standing.position,
        queue_length=standing.queue_length,
        estimated_wait_s=round(standing.estimated_wait_seconds, 1),
    )
