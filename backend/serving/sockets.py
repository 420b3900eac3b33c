"""Conversations over sockets: who comes in, what is served to them, and how a socket ends."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from traceback import clear_frames
from typing import Self

from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketDisconnected

from backend.admission import Admission
from backend.engine import Engine
from backend.engine.capacity import too_slow
from backend.journal import Journal
from backend.model.checkpoint import Ability
from backend.recordings.live import Recordings
from backend.recordings.store import RecordingStore
from backend.serving.access import SUBPROTOCOL, Doorkeeper
from backend.serving.process import Heap, ServingOptions
from backend.speech import Voices
from backend.speech.neural import JoeVoice
from backend.timing import SystemTime
from backend.wires.connection import Connection
from backend.wires.conversations import Conversations
from backend.wires.errors import CloseCode, ConnectionEnd, ErrorType, WireError, first_end
from backend.wires.wire import Address, Offer, WireKind

logger = logging.getLogger(__name__)

SEND_TIMEOUT_SECONDS = 10.0
"""A client that takes no message for this long is gone."""
OPENING = "hello"
_LOST = (None, 1005, 1006)
"""Close codes of a connection that ended without a word."""
_GOODBYES = (1000, 1001, CloseCode.POLICY)
"""Close codes of a page that is done, of a window that was closed, and of a socket that floods."""


class SocketService:
    """Serves the sockets of all wires: they share the engine's conversations."""

    def __init__(
        self, engine: Engine, options: ServingOptions, journal: Journal | None = None
    ) -> None:
        self.engine = engine
        self.doorkeeper = Doorkeeper(options.access_key, own_hosts=options.own_hosts)
        time = SystemTime()
        self.admission = Admission(engine.capacity.num_sessions, time)
        self.recordings: Recordings | None = None
        if options.recordings is not None:
            store = RecordingStore(options.recordings)
            self.recordings = Recordings(store, lambda: engine.checkpoint)
        self.conversations = Conversations(
            engine,
            self.admission,
            time,
            recordings=self.recordings,
            has_ended=Heap().conversation_ended,
            journal=journal,
        )
        self.joe = JoeVoice() if options.has_neural_voice else None
        self.too_slow = too_slow(engine.capacity, engine.checkpoint)
        """Why nobody can converse here in real time, and what helps; None where all can."""
        self._voices = Voices(neural=[self.joe] if self.joe is not None else [])
        self._idle_seconds = options.idle_minutes * 60

    def _offer(self) -> Offer:
        """What a client gets that comes now: the model may have been changed."""
        checkpoint = self.engine.checkpoint
        return Offer(
            model=checkpoint.name,
            system_prompt=checkpoint.system_prompt,
            sampling=checkpoint.sampling,
            max_positions=self.engine.max_positions,
            voices=self._voices,
            idle_seconds=self._idle_seconds,
            may_record=self.recordings is not None,
            hears_words=checkpoint.word_head is not None,
            opening=_opening(checkpoint.abilities),
            may_keep_silent=bool(checkpoint.abilities),
        )

    async def serve(self, kind: WireKind, websocket: WebSocket) -> None:
        """Serve one socket of a wire until it closes."""
        # Also for a page that is refused: browsers do not tell why a handshake failed.
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        messages = SocketMessages(websocket)
        try:
            async with self.doorkeeper.admit(websocket):
                await self._connection(websocket, kind, messages).run()
        except* ConnectionEnd as ends:
            await _end(websocket, kind, first_end(ends))
        except* (WebSocketDisconnect, TimeoutError) as gone:
            logger.info("a client went away, or took nothing more")
            clear_frames(gone.__traceback__)
        else:
            code = messages.close_code
            logger.info("a client went away (%s)", "lost" if code in _LOST else code)

    def _connection(
        self, websocket: WebSocket, kind: WireKind, messages: "SocketMessages"
    ) -> Connection:
        async def send(text: str) -> None:
            # Whoever reads the client's messages learns that it has gone, and whether on purpose.
            with suppress(WebSocketDisconnect, WebSocketDisconnected):
                async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                    await websocket.send_text(text)

        if self.too_slow is not None and websocket.query_params.get("pace") != "own":
            raise ConnectionEnd(_slower_than_sound(self.too_slow), CloseCode.POLICY)
        try:
            address = Address(
                websocket.query_params,
                websocket.headers,
                websocket.path_params,
                self.doorkeeper.session_of(websocket),
            )
            request = kind.request(address, self._offer())
        except WireError as error:
            raise ConnectionEnd(error, CloseCode.POLICY) from error
        return Connection(self.conversations, request, messages, send)


class SocketMessages:
    """A client's messages until it goes; waiting for the next may be cancelled."""

    def __init__(self, websocket: WebSocket) -> None:
        self.close_code: int | None = None
        """With which the client went; None while it is there."""
        self._websocket = websocket

    @property
    def has_left(self) -> bool:
        """Whether the client went on purpose: it closed the socket, and did not lose it."""
        return self.close_code in _GOODBYES

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            self.close_code = message.get("code")
            raise StopAsyncIteration
        text: str | None = message.get("text")
        if text is not None:
            return text
        content: bytes = message["bytes"]
        return content


def _opening(abilities: Sequence[Ability]) -> str | None:
    """What a model answers with a greeting, if it says so of itself."""
    return OPENING if any(ability.heard == OPENING for ability in abilities) else None


def _slower_than_sound(why: str) -> WireError:
    return WireError(
        f"{why}; a client that sends only what is to be heard, and then waits, may connect with "
        "pace=own",
        "too_slow",
        error_type=ErrorType.SERVER,
    )


async def _end(websocket: WebSocket, kind: WireKind, end: ConnectionEnd) -> None:
    """Say why, then close; the client may have gone already."""
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            if end.error is not None:
                await websocket.send_text(kind.refusal(end.error))
            await websocket.close(end.close_code, end.reason)
