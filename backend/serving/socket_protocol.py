"""The WebSocket protocol of the server: uvicorn's, but no peer keeps the loop or a socket busy."""

from asyncio import AbstractEventLoop, TimerHandle
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from backend.allowance import TokenBucket
from backend.serving.http_protocol import ServerConfig
from backend.timing import SystemTime
from backend.wires.errors import CloseCode, WireError
from backend.wires.registry import wire_at

CLOSING_SECONDS = 5.0
"""For what was still to be sent, and for the closing handshake."""

LATE_BYTES = 256 * 1024
"""So much is read from a peer that was told that its socket closes, for its own farewell."""
READING_REASON_SECONDS = 1.0
"""For a peer that is shown out."""

PART_BYTES = 1024
"""So much is parsed in one go: at most 170 frames, which takes some milliseconds."""
FRAMES_PER_TURN = 64
"""Then the other sockets have theirs."""
FRAMES_PER_SECOND = 1000.0
FRAME_BURST = 1000.0
"""What comes faster is not read, and waits with its sender."""
IDLE_FRAMES_PER_SECOND = 20.0
IDLE_FRAME_BURST = 200.0
"""Frames that say nothing; who sends more of them is shown out."""
SHORT_FRAGMENT_BYTES = 256
"""A message is cut into pieces because it is long; pieces this short are no use to anybody."""


class PacedSocket(WebSocketsSansIOProtocol):
    """Reads no faster than each socket's share allows, and lets go of peers that read no more.

    Pings and fragments never come to the application, so every frame is counted here, from the
    handshake on. A transport that is closed first sends what waits, for as long as the peer may
    take: one that does not read would keep its socket and what it was to be sent in memory for
    ever.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        time = SystemTime()
        self._frames_allowed = TokenBucket(FRAMES_PER_SECOND, FRAME_BURST, time)
        self._idle_frames_allowed = TokenBucket(IDLE_FRAMES_PER_SECOND, IDLE_FRAME_BURST, time)
        self._unparsed = bytearray()
        self._num_late_bytes = 0
        self._num_frames_of_turn = 0
        self._rest_seconds = 0.0
        self._resting: TimerHandle | None = None
        """Until then nothing is parsed."""

    def data_received(self, data: bytes) -> None:
        """More has come from the peer."""
        self._unparsed += data
        self._read_on()

    async def receive(self) -> ASGIReceiveEvent:
        """The next message for the application; it makes room for the one after it."""
        message = await super().receive()
        self._read_on()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        """Send for the application; what the peer sent before it was accepted is read then."""
        await super().send(message)
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more comes, or goes."""
        self._unparsed.clear()
        if self._resting is not None:
            self._resting.cancel()
        assert isinstance(self.config, ServerConfig), "its connections are counted"
        self.config.connections.forget(self.transport)
        super().connection_lost(exc)

    async def run_asgi(self) -> None:
        """Serve the socket, then have it closed soon whatever the peer does."""
        await super().run_asgi()
        self.loop.call_later(CLOSING_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """The peer answers no more: there is nobody to say goodbye to."""
        if self._unparsed or self.read_paused:
            # Its answer may be among what it was not let through with.
            self.pong_timer = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self.transport.abort()

    def handle_parser_exception(self) -> None:
        """The peer broke the protocol, and was told so: the application sends it no more."""
        super().handle_parser_exception()
        self.disconnected = True

    def handle_events(self) -> None:
        """Count what was parsed, then handle it."""
        frames = [event for event in self.conn.events if isinstance(event, Frame)]
        self._num_frames_of_turn += len(frames)
        self._rest_seconds = self._frames_allowed.charge(len(frames))
        num_idle = sum(map(_is_idle, frames))
        if num_idle and not self._idle_frames_allowed.take_now(num_idle):
            self._show_out()
            return
        super().handle_events()

    def _read_on(self) -> None:
        """Parse what has come until a message waits, or its share is used up."""
        while self._unparsed and self._may_parse:
            part = bytes(self._unparsed[:PART_BYTES])
            del self._unparsed[:PART_BYTES]
            if self.close_sent:
                self._num_late_bytes += len(part)
            super().data_received(part)
            if self._rest_seconds or self._num_frames_of_turn >= FRAMES_PER_TURN:
                self._resting = self.loop.call_later(self._rest_seconds, self._end_rest)
        if self._unparsed or self.disconnected:
            self.transport.pause_reading()
        elif not self.read_paused:
            self.transport.resume_reading()

    @property
    def _may_parse(self) -> bool:
        is_answered = self.handshake_complete or not self.handshake_initiated
        is_over = self.disconnected or self.transport.is_closing()
        is_late = self._num_late_bytes > LATE_BYTES
        has_turn = self._resting is None and not self.read_paused
        return is_answered and has_turn and not is_over and not is_late

    def _end_rest(self) -> None:
        self._resting = None
        self._num_frames_of_turn = 0
        self._read_on()

    def _show_out(self) -> None:
        """Close the socket of a peer that floods it."""
        if self.conn.state is not State.OPEN:
            # It was told to go already, or has gone.
            self.transport.abort()
            return
        error = WireError(
            f"this socket sends more than {IDLE_FRAMES_PER_SECOND:g} pings, pongs, empty frames or "
            f"fragments shorter than {SHORT_FRAGMENT_BYTES} bytes a second",
            "too_many_frames",
        )
        self.conn.send_text(wire_at(self.scope["path"]).refusal(error).encode())
        self.conn.send_close(CloseCode.POLICY, error.code)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self.disconnected = True
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": CloseCode.POLICY, "reason": error.code}
        )
        self._unparsed.clear()
        # Not at once: a socket that is closed over data that nobody read takes the reason with it.
        self.close_timer = self.loop.call_later(READING_REASON_SECONDS, self.transport.abort)


def _is_idle(frame: Frame) -> bool:
    """Whether a frame says nothing: a ping or pong, an empty message, a fragment too short."""
    match frame.opcode:
        case Opcode.PING | Opcode.PONG:
            return True
        case Opcode.TEXT | Opcode.BINARY | Opcode.CONT if not frame.fin:
            return len(frame.data) < SHORT_FRAGMENT_BYTES
        case Opcode.TEXT | Opcode.BINARY:
            return not frame.data
        case _:
            return False
