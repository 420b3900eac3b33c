"""The model's decisions and nothing else: raw sound in, a short line of JSON for each 0.4 s out.

For robots and for shadow mode, in which a model is watched and never heard.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from backend.config import CHUNK_SECONDS, SAMPLE_RATE_HZ
from backend.conversation.commands import EndUtterance, HearAudio
from backend.conversation.conversation import Conversation
from backend.conversation.events import (
    ChunkDecision,
    ConversationEvent,
    ConversationFailed,
    ConversationIdled,
    ConversationOpened,
    EndReason,
    RecordingStarted,
    ReplyEnded,
    ReplyStarted,
)
from backend.conversation.settings import ConversationSettings, SettingsPatch, TurnPatch
from backend.errors import AudioInteractionError
from backend.protocol import Emotion, speak_threshold
from backend.timing import Time
from backend.wires.audio_formats import WireFormat
from backend.wires.errors import CloseCode, WireError, as_wire_error, conversation_failed
from backend.wires.wire import (
    Address,
    Ending,
    Message,
    Offer,
    Refused,
    Request,
    SessionKey,
    SocketEvent,
    requested_number,
    requested_options,
)

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sound:
    """What a binary message holds: PCM16, mono; nothing at the end of an utterance."""

    pcm: bytes
    event_id: None = None


class DecisionsWire:
    """One conversation as a line for each decision, and one for each reply.

    Args:
        offer: what the server has.
        settings: those of the conversation, to its end.
    """

    is_resumable = False

    def __init__(self, offer: Offer, settings: ConversationSettings) -> None:
        self.key = SessionKey()
        self._model = offer.model
        self._threshold = speak_threshold(settings.decision_bias)
        """Of a model that replies to no one, too."""
        self._replies = settings.turns.replies_itself
        self._emotion: Emotion | None = None
        self._chunk = 0
        """That is answered."""

    def read(self, message: Message) -> Sound:
        """A client's sound.

        Raises:
            WireError: it is none.
        """
        if isinstance(message, str):
            raise WireError("messages are binary: PCM16, mono, little-endian", "text_message")
        return Sound(WireFormat().decode(message))

    def begin(self, message: Sound, request: Request) -> Request:
        """The request as it is: all is in the address."""
        return request

    def takes_time(self, message: Sound) -> bool:
        """Nothing does: sound waits elsewhere."""
        return False

    async def obey(self, message: Sound, conversation: Conversation) -> Sequence[Line]:
        """Have the conversation hear.

        Raises:
            AudioInteractionError: as much waits as may.
        """
        await conversation.obey(HearAudio(message.pcm) if message.pcm else EndUtterance())
        return []

    def write(self, event: ConversationEvent | SocketEvent) -> Sequence[Line]:
        """The line that tells of what happens."""
        match event:
            case ChunkDecision():
                return [self._decision(event)]
            case ReplyStarted():
                self._emotion, self._chunk = event.emotion, event.decision.chunk
            case ReplyEnded():
                return [{"chunk": self._chunk, "reply": _reply(event, self._emotion)}]
            case ConversationOpened():
                return [self._session(event.settings)]
            case RecordingStarted():
                return [{"recording": event.recording_id}]
            case Refused():
                return [_error(event.error)]
            case ConversationFailed():
                return [_error(conversation_failed(event))]
            case ConversationIdled():
                minutes = event.idle_seconds / 60
                return [_error(WireError(f"all was quiet for {minutes:g} min", "session_expired"))]
        return []

    def ending(self, reason: EndReason) -> Ending:
        """How the socket is closed when the conversation has ended."""
        match reason:
            case EndReason.CLIENT | EndReason.LEFT:
                return Ending(CloseCode.NORMAL, "client_request")
            case EndReason.IDLE:
                return Ending(CloseCode.EXPIRED, "session_expired")
            case EndReason.FAILED:
                return Ending(CloseCode.SESSION_FAILED, "session_failed")

    def encode(self, message: Line, number: int | None) -> str:
        """A line as the socket carries it."""
        return _encoded(message)

    async def run(self, tell: Callable[[Sequence[Line]], None], time: Time) -> None:
        """Nothing here has a time of its own."""

    def _session(self, settings: ConversationSettings) -> Line:
        return {
            "session": self.key.session_id,
            "model": self._model,
            "rate": settings.input_rate_hz,
            "chunk_seconds": CHUNK_SECONDS,
            "threshold": round(self._threshold, 4),
        }

    def _decision(self, decision: ChunkDecision) -> Line:
        probability = decision.speak_probability
        # One that may not speak decides nothing; what it would do is told.
        speaks = decision.speak if self._replies else probability > self._threshold
        return {
            "chunk": decision.chunk,
            "seconds": round(decision.seconds, 3),
            "probability": round(probability, 4),
            "decision": "speak" if speaks else "listen",
        }


class Decisions:
    """The wire as a server offers it."""

    path = "/v1/decisions"

    def request(self, address: Address, offer: Offer) -> Request:
        """What a client's address asks for.

        Raises:
            WireError: it cannot be.
        """
        query = address.query
        patch = SettingsPatch(
            instructions=query.get("instructions"),
            input_rate_hz=round(requested_number(query, "input_rate", SAMPLE_RATE_HZ)),
            decision_bias=requested_number(query, "decision_bias", 0.0),
            turns=TurnPatch(replies_itself=query.get("replies") != "0"),
        )
        try:
            settings = ConversationSettings(offer.system_prompt, offer.sampling).merged(patch)
        except AudioInteractionError as error:
            raise as_wire_error(error) from error
        options = requested_options(address, offer)
        return Request(DecisionsWire(offer, settings), options, settings)

    def refusal(self, error: WireError) -> str:
        """The line that tells a client why its socket is closed."""
        return _encoded(_error(error))


def _encoded(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def _reply(reply: ReplyEnded, emotion: Emotion | None) -> Line:
    return {"text": reply.text, "emotion": emotion.value if emotion else None}


def _error(error: WireError) -> Line:
    return {"error": {"code": error.code, "message": error.message}}
