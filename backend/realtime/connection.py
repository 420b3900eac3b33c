"""One client's socket: what arrives is obeyed by a conversation, what that tells is sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from backend.errors import AudioInteractionError
from backend.realtime.client_events import parse_client_event
from backend.realtime.conversation import Conversation
from backend.realtime.errors import CloseCode, ConnectionEnd, WireError, as_wire_error
from backend.realtime.outbox import EventsLostError

Send = Callable[[str], Awaitable[None]]


class Connection:
    """Serves one socket from its first message to its last.

    Args:
        conversation: what the client talks to; it ends with the socket.
        send: delivers one event to the client, in order.
    """

    def __init__(self, conversation: Conversation, send: Send) -> None:
        self._conversation = conversation
        self._deliver = send

    async def run(self, messages: AsyncIterator[str | bytes]) -> None:
        """Serve until `messages` ends; the slot is free when this returns or raises.

        Raises:
            ConnectionEnd: alone or in a group, when no session can be had or it failed.
        """
        await self._conversation.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(self._conversation.run()),
                    tasks.create_task(self._send()),
                ]
                await self._receive(messages)
                for other in others:
                    other.cancel()
        finally:
            await self._conversation.close()

    async def _receive(self, messages: AsyncIterator[str | bytes]) -> None:
        async for message in messages:
            try:
                await self._obey(message)
            except AudioInteractionError as error:
                self._conversation.report(as_wire_error(error))

    async def _obey(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            raise WireError("events are JSON in text messages, not binary", "binary_message")
        event = parse_client_event(message)
        try:
            await self._conversation.obey(event)
        except AudioInteractionError as error:
            named = as_wire_error(error)
            named.event_id = event.event_id
            raise named from error

    async def _send(self) -> None:
        outbox = self._conversation.outbox
        try:
            async for event in outbox.after(0):
                await self._deliver(event.text)
                outbox.forget(event.number)
        except EventsLostError as error:
            slow = WireError("events come faster than they are read", "client_too_slow")
            raise ConnectionEnd(slow, CloseCode.POLICY) from error
        assert outbox.ending is not None
        raise ConnectionEnd(None, outbox.ending.close_code, outbox.ending.reason)
