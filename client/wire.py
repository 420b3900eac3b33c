"""The conversation's WebSocket: a lost connection is taken up again where it broke."""

import asyncio
import base64
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from client.address import DEFAULT_SERVER, ServerAddress
from client.messages import (
    ClientError,
    ConversationForgottenError,
    Message,
    message,
)

WireEvent = dict[str, Any]

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 12.0
"""Without a word from the server, which answers heartbeats."""
EVENTS_PER_ACK = 32
RESUMABLE_SECONDS = 60.0
"""The server keeps a conversation that long."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 4.0
STARTING_PAUSE_SECONDS = 2.0
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
RESTARTING = 1012
LOST_CODES = (1001, 1005, LOST, RESTARTING)
"""Those of a connection that was lost, not ended by choice."""
REFUSED = 1008

FULL = 1013
FORGOTTEN = 4004
"""The server knows nothing of the conversation that was to be taken up."""
ENGINE_FAILED = "engine_failed"
STARTING = "starting"
"""Why a server is full that has no model yet."""

CLOSED = {
    1001: "problem.server_gone",
    1005: "problem.server_gone",
    LOST: "problem.server_gone",
    1009: "problem.message_too_large",
    1011: "problem.model_failed",
    RESTARTING: "problem.server_gone",
    FULL: "problem.server_full",
    3000: "problem.wrong_key",
    4000: "problem.session_expired",
    4001: "problem.goes_on_elsewhere",
    FORGOTTEN: "problem.session_lost",
}
KNOWN_REFUSALS = {
    "recording_off": "refused.recording_off",
    "recording_full": "refused.recording_full",
    "too_slow": "refused.too_slow",
}


class Listener(Protocol):
    """What has the conversation; called on the event loop."""

    def receive(self, event: WireEvent) -> None:
        """An event of the server's; each comes once."""

    def connection_lost(self, *, is_restarting: bool) -> None:
        """It will be tried again."""

    def server_starting(self) -> None:
        """It is there, and has no model yet: it will be tried again."""

    def connection_resumed(self, input_seconds: float) -> None:
        """So much of our audio had arrived; what was missed comes now."""


@dataclass(frozen=True, slots=True)
class _ResumeToken:
    """What it takes to resume."""

    id: str
    token: str


class AfterClose(StrEnum):
    """What a connection's end leads to."""

    RESUMED = "resumed"
    BEGUN = "begun"
    """There was no conversation yet: it is asked for again."""
    FORGOTTEN = "forgotten"
    """The server is there, and knows nothing of the conversation."""
    OVER = "over"


def after_close(
    code: int, *, has_session: bool, is_loading: bool, is_restarting: bool, lost_seconds: float
) -> AfterClose:
    """What follows when a connection was closed with `code`.

    Args:
        code: of the socket's end.
        has_session: whether a conversation had begun.
        is_loading: whether the server has said on this connection that it has no model yet.
        is_restarting: whether it has said so, or that it ends, since it was last there.
        lost_seconds: for how long it has been away.
    """
    is_in_time = lost_seconds < RESUMABLE_SECONDS
    if not has_session:
        can_begin = is_loading or (is_restarting and is_in_time)
        return AfterClose.BEGUN if can_begin else AfterClose.OVER
    if code in LOST_CODES and is_in_time:
        return AfterClose.RESUMED
    return AfterClose.FORGOTTEN if is_loading or code == FORGOTTEN else AfterClose.OVER


class RealtimeSocket:
    """One conversation with a server, over as many connections as it takes.

    Args:
        address: of the server.
        listener: whose conversation it is.
        recording_title: of the recording that the server makes of it; None for none.
        clock: in seconds.
    """

    def __init__(
        self,
        address: ServerAddress,
        listener: Listener,
        recording_title: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._listener = listener
        self._recording_title = recording_title
        self._clock = clock
        self._session: _ResumeToken | None = None
        self._is_attached = False
        self._connection: ClientConnection | None = None
        self._unsent: asyncio.Queue[WireEvent] = asyncio.Queue()
        self._outbox: list[WireEvent] = []
        self._last_number = 0
        self._acknowledged = 0
        self._heard_at = 0.0
        self._last_error: dict[str, Any] | None = None
        self._is_restarting = False
        """Whether the server has said so, or that it has no model yet, since it was last there."""
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
            ConversationForgottenError: the server is there and knows it no more.
            ClientError: there is no such server, it ended the conversation, or that could not be
                resumed.
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
            is_loading = self._has_no_model_yet(code)
            self._is_restarting |= is_loading or code == RESTARTING
            now = self._clock()
            lost_at = now if lost_at is None else lost_at
            match after_close(
                code,
                has_session=self._session is not None,
                is_loading=is_loading,
                is_restarting=self._is_restarting,
                lost_seconds=now - lost_at,
            ):
                case AfterClose.OVER:
                    raise ClientError(self._why(code))
                case AfterClose.FORGOTTEN:
                    raise ConversationForgottenError(self._why(code))
            if is_loading:
                self._listener.server_starting()
                await asyncio.sleep(STARTING_PAUSE_SECONDS)
                continue
            self._listener.connection_lost(is_restarting=self._is_restarting)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _connect_and_converse(self) -> int:
        """Returns the code that the connection was closed with."""
        key = self._address.access_key
        resumes = self._session is not None
        connecting = connect(
            self._address.socket(resumes=resumes, recording_title=self._recording_title),
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
            if self._session is None and not self._is_restarting:
                raise ClientError(_unreachable(self._address, error)) from error
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
                self._session = _ResumeToken(event["session"]["id"], event["resume_token"])
                self._attach()
            case "session.resumed":
                self._is_attached = True
                self._listener.connection_resumed(event["input_seconds"])
                self._attach()
            case "session.closed":
                self._is_closing = True
                self._abandon()
            case "error":
                self._last_error = event["error"]
        self._listener.receive(event)

    def _attach(self) -> None:
        self._is_attached = True
        self._is_restarting = False
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
                return  # `_receive_all` learns why

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

    def _has_no_model_yet(self, code: int) -> bool:
        """Whether the server is just starting; a conversation that it had is over then."""
        error = self._last_error or {}
        return code == FULL and error.get("code") == STARTING

    def _why(self, code: int) -> Message:
        error = self._last_error or {}
        match code:
            case _ if code == REFUSED and error:
                known = KNOWN_REFUSALS.get(error.get("code") or "")
                reason = error["message"].removesuffix(".")
                return message(known) if known else message("problem.refused", reason=reason)
            case _ if code == FULL and error.get("code") == STARTING:
                return message("problem.session_lost")
            case _ if error.get("code") == ENGINE_FAILED:
                return message("problem.engine_failed")
            case _ if code in CLOSED:
                return message(CLOSED[code])
        return message("problem.connection_ended", code=code)


def _unreachable(address: ServerAddress, error: Exception) -> Message:
    match error:
        case InvalidHandshake():
            return message("problem.no_such_server", server=address.base, reason=error)
        case OSError() if address.is_local:
            port = "" if address.base == DEFAULT_SERVER else f" --port {address.port}"
            command = f"{shlex.quote(sys.executable)} app.py{port}"
            return message("problem.no_local_server", server=address.base, command=command)
    reason = str(error) or message("problem.too_long")
    return message("problem.no_server", server=address.base, reason=reason)
