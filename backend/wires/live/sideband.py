"""Those who look on at a session of the Live API, and steer it."""

import base64
import json
from collections.abc import Sequence

from typing_extensions import override

from backend.audio import Resampler, float_to_pcm16, pcm16_to_float
from backend.config import SPEECH_RATE_HZ
from backend.conversation.conversation import Conversation, ConversationOptions
from backend.conversation.events import ConversationEvent
from backend.conversation.settings import ConversationSettings
from backend.wires.errors import WireError
from backend.wires.live.client_messages import AppendInputAudio, SessionMessage, StartSession
from backend.wires.live.output import (
    FRAME_BYTES,
    HeardAudio,
    LiveMessage,
    SaidAudio,
    audio_delta,
    error_message,
)
from backend.wires.live.wire import LiveWire, refusal
from backend.wires.wire import (
    Address,
    AnyWire,
    Message,
    Observation,
    Offer,
    Refused,
    Request,
    SessionKey,
    SocketCommand,
    SocketEvent,
    Wire,
    WireKind,
    encoded,
)


class SidebandWire(Wire[SessionMessage, LiveMessage]):
    """One that looks on and steers, in the messages of the Live API.

    It is told what the session's own client is, sound as PCM16 at 24 kHz with its time on the
    track, and what that client sends.

    Args:
        session_id: of the session that it attaches to.
    """

    closed_by_client = LiveWire.closed_by_client

    def __init__(self, offer: Offer, session_id: str) -> None:
        super().__init__(SessionKey(session_id))
        self._session = LiveWire(offer)
        """Of the session, once it is known."""
        self._heard: tuple[int, Resampler] | None = None
        """From a client's rate to 24 kHz."""

    def attach(self, wire: AnyWire) -> Sequence[LiveMessage]:
        """Get to know the session; returns what is told first.

        Raises:
            WireError: it is none of this API.
        """
        if not isinstance(wire, LiveWire):
            raise WireError("there is no such session, or it is over", "session_not_found")
        self._session = wire
        return [wire.observed()]

    @override
    def read(self, message: Message) -> SessionMessage | SocketCommand:
        """A client's message, but for what is for the session's own client alone."""
        parsed = self._session.read(message)
        if isinstance(parsed, StartSession | AppendInputAudio):
            raise WireError(
                f"{parsed.TYPE} is for the session's own client",
                "unsupported_event",
                "type",
                parsed.event_id,
            )
        return parsed

    @override
    async def obey(
        self, message: SessionMessage, conversation: Conversation
    ) -> Sequence[LiveMessage]:
        """Have the conversation do what a message asks, as if its own client had asked."""
        return await self._session.obey(message, conversation)

    @override
    def write(self, event: ConversationEvent | SocketEvent) -> Sequence[LiveMessage]:
        """The messages that tell of what happens to this socket."""
        return [error_message(event.error)] if isinstance(event, Refused) else []

    @override
    def encode(self, message: LiveMessage, number: int | None) -> str | None:
        match message:
            case SaidAudio():
                pcm = message.pcm or bytes(FRAME_BYTES)
                return audio_delta(pcm, start_ms=message.start_ms, end_ms=message.end_ms)
            case HeardAudio():
                audio = base64.b64encode(self._at_24_khz(message)).decode("ascii")
                return json.dumps({"type": "session.input_audio.append", "audio": audio})
        return encoded(message)

    def _at_24_khz(self, heard: HeardAudio) -> bytes:
        if heard.rate_hz == SPEECH_RATE_HZ:
            return heard.pcm
        if self._heard is None or self._heard[0] != heard.rate_hz:
            self._heard = heard.rate_hz, Resampler(heard.rate_hz, SPEECH_RATE_HZ)
        return float_to_pcm16(self._heard[1].process(pcm16_to_float(heard.pcm)))


def _asked(address: Address, offer: Offer) -> Request:
    session_id = address.names["session_id"]
    wire = SidebandWire(offer, session_id)
    return Request(
        wire,
        ConversationOptions(),
        ConversationSettings(offer.system_prompt, offer.sampling),
        observes=Observation(session_id, wire.attach),
    )


LIVE_SIDEBAND = WireKind("/v1/live/sessions/{session_id}/attach", _asked, refusal)
