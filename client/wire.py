"""The conversation's WebSocket: a lost connection is taken up again where it broke."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from client.address import DEFAULT_SERVER, ServerAddress
from client.errors import ConversationOverError, ServerUnreachableError

WireEvent = dict[str, Any]

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 12.0
"""Without a word from the server, which answers heartbeats."""
EVENTS_PER_ACK = 32
RESUMABLE_SECONDS = 60.0
"""The server keeps a conversation that long."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 4.0
OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024

NOT_KEPT = (
    "session.resume",
    "input_audio_buffer.append",
    "conversation.item.create",
    "response.create",
)
"""What a connection that breaks before it was sent takes with it."""

LOST = 1006
LOST_CODES = (1001, 1005, LOST)
"""Those with which nobody chose to end the conversation."""
REFUSED = 1008

CLOSED = {
    1001: "The server cannot be reached any more.",
    1005: "The server cannot be reached any more.",
    LOST: "The server cannot be reached any more.",
    1009: "The server refused a message that was too large.",
    1011: "The model failed on this conversation. Start again for a new one.",
    1012: "The server is restarting. Start again in a moment.",
    1013: "All conversations are taken. Wait for one to end, then start again.",
    3000: "This server wants an access key, and not this one. Give the right one.",
    4000: "The conversation has ended because nothing happened for a while.",
    4001: "This conversation goes on in another client.",
    4004: "The connection was away for too long, or the server was restarted: the conversation is "
    "over. Start again for a new one.",
}


class Listener(Protocol):
    """Whoever has the conversation; called on the event loop."""

    def receive(self, event: WireEvent) -> None:
        """An event of the server's; each comes once."""

    def connection_lost(self) -> None:
        """It will be tried again."""

    def connection_resumed(self, input_seconds: float) -> None:
        """So much of our audio had arrived; what was missed comes now."""


@dataclass(frozen=True, slots=True)
class _Session:
    """What it takes to resume."""

    id: str
    token: str


class RealtimeSocket:
    """One conversation with a server, over as many connections as it takes."""

    def __init__(
        self,
        address: ServerAddress,
        listener: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._listener = listener
        self._clock = clock
        self._session: _Session | None = None
        self._is_attached = False
        self._connection: ClientConnection | None = None
        self._unsent: asyncio.Queue[WireEvent] = asyncio.Queue()
        self._outbox: list[WireEvent] = []
        self._last_number = 0
        self._acknowledged = 0
        self._heard_at = 0.0
        self._last_error: str | None = None
        self._is_closing = False

    @property
    def is_attached(self) -> bool:
        """Whether the conversation is open, and its connection there."""
        return self._is_attached

    def send_audio(self, pcm: bytes) -> None:
        """Only while attached: what is not sent then is sent again once it has been resumed."""
        if self._is_attached:
            audio = base64.b64encode(pcm).decode()
            self._transmit({"type": "input_audio_buffer.append", "audio": audio})

    def send(self, event: WireEvent) -> None:
        """Now, or as soon as there is a connection again."""
        if self._is_attached:
            self._transmit(event)
        else:
            self._outbox.append(event)

    def close(self) -> None:
        """End the conversation; `run` returns when the server has said goodbye."""
        self._is_closing = True
        if self._is_attached:
            self._transmit({"type": "session.close"})

    async def run(self) -> None:
        """Converse until `close`.

        Raises:
            ServerUnreachableError: there is no such server.
            ConversationOverError: the server ended the conversation, or it could not be resumed.
        """
        lost_at: float | None = None
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            code = await self._connect_and_converse()
            if self._is_attached:
                lost_at, pause_seconds = None, FIRST_PAUSE_SECONDS
            self._detach()
            if self._is_closing:
                return
            now = self._clock()
            lost_at = now if lost_at is None else lost_at
            is_late = now - lost_at >= RESUMABLE_SECONDS
            if self._session is None or code not in LOST_CODES or is_late:
                raise ConversationOverError(self._why(code))
            self._listener.connection_lost()
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _connect_and_converse(self) -> int:
        """Returns the code that the connection was closed with."""
        key = self._address.access_key
        resumes = self._session is not None
        connecting = connect(
            self._address.socket(resumes=resumes),
            additional_headers={"Authorization": f"Bearer {key}"} if key else None,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            proxy=None if self._address.is_local else True,
        )
        try:
            connection = await connecting
        except (OSError, InvalidHandshake, EOFError, ValueError, ImportError) as error:
            # ImportError: a proxy of a kind that needs another library.
            if self._session is None:
                raise ServerUnreachableError(_unreachable(self._address, error)) from error
            return LOST
        self._connection = connection
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send_all(connection))
                beating = tasks.create_task(self._beat())
                code = await self._receive_all(connection)
                sending.cancel()
                beating.cancel()
        finally:
            self._connection = None
            await connection.close()
        return code

    async def _receive_all(self, connection: ClientConnection) -> int:
        self._heard_at = self._clock()
        if (session := self._session) is not None:
            self._transmit(
                {
                    "type": "session.resume",
                    "session_id": session.id,
                    "resume_token": session.token,
                    "last_received_server_event_seq": self._last_number,
                }
            )
        while True:
            try:
                text = await connection.recv()
            except ConnectionClosed as closed:
                # Without a word from the server, the library's own code says nothing.
                return closed.rcvd.code if closed.rcvd else LOST
            self._receive(json.loads(text))

    def _receive(self, event: WireEvent) -> None:
        self._heard_at = self._clock()
        number = event.get("server_event_seq")
        # What was missed follows `session.resumed`, whatever that one's own number is.
        if number is not None and event["type"] != "session.resumed":
            if number <= self._last_number:
                return  # replayed, although it had come
            self._last_number = number
            self._acknowledge()
        match event["type"]:
            case "session.created":
                self._session = _Session(event["session"]["id"], event["resume_token"])
                self._attach()
            case "session.resumed":
                self._is_attached = True
                self._listener.connection_resumed(event["input_seconds"])
                self._attach()
            case "session.closed":
                self._is_closing = True
                self._abandon()
            case "error":
                self._last_error = event["error"]["message"]
            case "session.expired":
                self._last_error = event["reason"]
        self._listener.receive(event)

    def _attach(self) -> None:
        self._is_attached = True
        waiting, self._outbox = self._outbox, []
        for event in waiting:
            self._transmit(event)

    def _detach(self) -> None:
        self._is_attached = False
        # Audio and typed text are sent again from memory, by what the server says has arrived.
        while not self._unsent.empty():
            event = self._unsent.get_nowait()
            if event["type"] not in NOT_KEPT:
                self._outbox.append(event)

    def _acknowledge(self) -> None:
        if self._last_number - self._acknowledged >= EVENTS_PER_ACK:
            self._acknowledged = self._last_number
            self._transmit({"type": "session.event_ack", "server_event_seq": self._last_number})

    def _transmit(self, event: WireEvent) -> None:
        self._unsent.put_nowait(event)

    async def _send_all(self, connection: ClientConnection) -> None:
        while True:
            event = await self._unsent.get()
            try:
                await connection.send(json.dumps(event))
            except ConnectionClosed:
                return  # whoever receives learns why

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if not self._is_attached:
                continue  # in the queue it may be quiet for long
            if self._clock() - self._heard_at > DEAD_AFTER_SECONDS:
                self._abandon()
            else:
                self._transmit({"type": "session.heartbeat"})

    def _abandon(self) -> None:
        """A connection can be dead for minutes before the system says so."""
        if self._connection is not None:
            self._connection.transport.abort()

    def _why(self, code: int) -> str:
        if code == REFUSED and self._last_error is not None:
            return f"The server refused: {self._last_error}."
        return CLOSED.get(code, f"The connection ended (code {code}).")


def _unreachable(address: ServerAddress, error: Exception) -> str:
    match error:
        case InvalidHandshake():
            return f"What answers at {address.base} is no server of this kind ({error})."
        case OSError() if address.is_local:
            port = "" if address.base == DEFAULT_SERVER else f" --port {address.port}"
            return (
                f"No server answers at {address.base}. Start one in another terminal with: "
                f"python app.py{port}"
            )
    return f"No server answers at {address.base} ({error or 'it takes too long'})."
