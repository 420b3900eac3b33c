"""The model's decisions and nothing else: raw sound in, a short line of JSON for each 0.4 s out.

For robots and for shadow mode, in which a model is watched and never heard.
"""

import json
from collections.abc import Sequence

from typing_extensions import override

from backend.config import CHUNK_SECONDS, SAMPLE_RATE_HZ
from backend.conversation.commands import EndUtterance, HearAudio
from backend.conversation.conversation import Conversation
from backend.conversation.events import (
    ChunkDecision,
    ConversationEvent,
    ConversationFailed,
    ConversationIdled,
    ConversationOpened,
    RecordingStarted,
    ReplyEnded,
    ReplyStarted,
)
from backend.conversation.settings import ConversationSettings, SettingsPatch, TurnPatch
from backend.protocol import Emotion, speak_threshold
from backend.wires.audio_formats import WireFormat
from backend.wires.errors import WireError
from backend.wires.wire import (
    Address,
    BinaryAudio,
    Fields,
    Message,
    Offer,
    Refused,
    Request,
    SocketEvent,
    Wire,
    WireKind,
    error_of,
    requested_number,
    requested_options,
)


class DecisionsWire(Wire[BinaryAudio, Fields]):
    """One conversation as a line for each decision, and one for each reply.

    Args:
        settings: those of the conversation, to its end.
    """

    def __init__(self, offer: Offer, settings: ConversationSettings) -> None:
        super().__init__()
        self._model = offer.model
        self._threshold = speak_threshold(settings.decision_bias)
        """Of a model that replies to no one, too."""
        self._replies = settings.turns.replies_itself
        self._emotion: Emotion | None = None
        self._chunk = 0
        """That is answered."""

    @override
    def read(self, message: Message) -> BinaryAudio:
        """A client's sound: PCM16, mono; nothing at the end of an utterance."""
        if isinstance(message, str):
            raise WireError("messages are binary: PCM16, mono, little-endian", "text_message")
        return BinaryAudio(WireFormat().decode(message))

    @override
    async def obey(self, message: BinaryAudio, conversation: Conversation) -> Sequence[Fields]:
        await conversation.obey(HearAudio(message.audio) if message.audio else EndUtterance())
        return []

    @override
    def write(self, event: ConversationEvent | SocketEvent) -> Sequence[Fields]:
        """The line that tells of what happens."""
        match event:
            case ChunkDecision():
                return [self._decision(event)]
            case ReplyStarted():
                self._emotion, self._chunk = event.emotion, event.decision.chunk
            case ReplyEnded():
                emotion = self._emotion.value if self._emotion else None
                reply = {"text": event.text, "emotion": emotion}
                return [{"chunk": self._chunk, "reply": reply}]
            case ConversationOpened():
                return [self._session(event.settings)]
            case RecordingStarted():
                return [{"recording": event.recording_id}]
            case Refused() | ConversationFailed() | ConversationIdled():
                return [_error(error_of(event))]
        return []

    @override
    def encode(self, message: Fields, number: int | None = None) -> str:
        return _encoded(message)

    def _session(self, settings: ConversationSettings) -> Fields:
        return {
            "session": self.key.session_id,
            "model": self._model,
            "rate": settings.input_rate_hz,
            "chunk_seconds": CHUNK_SECONDS,
            "threshold": round(self._threshold, 4),
        }

    def _decision(self, decision: ChunkDecision) -> Fields:
        probability = decision.speak_probability
        # One that may not speak decides nothing; what it would do is told.
        speaks = decision.speak if self._replies else probability > self._threshold
        line: Fields = {
            "chunk": decision.chunk,
            "seconds": round(decision.seconds, 3),
            "probability": round(probability, 4),
            "decision": "speak" if speaks else "listen",
        }
        if decision.words is not None:
            line["words"] = "".join(piece.text for piece in decision.words)
        return line


def _asked(address: Address, offer: Offer) -> Request:
    query = address.query
    patch = SettingsPatch(
        instructions=query.get("instructions"),
        input_rate_hz=round(requested_number(query, "input_rate", SAMPLE_RATE_HZ)),
        decision_bias=requested_number(query, "decision_bias", 0.0),
        turns=TurnPatch(replies_itself=query.get("replies") != "0"),
    )
    settings = ConversationSettings(offer.system_prompt, offer.sampling).merged(patch, offer.voices)
    return Request(DecisionsWire(offer, settings), requested_options(address, offer), settings)


def _encoded(line: Fields) -> str:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def _error(error: WireError) -> Fields:
    return {"error": {"code": error.code, "message": error.message}}


DECISIONS = WireKind("/v1/decisions", _asked, lambda error: _encoded(_error(error)))
