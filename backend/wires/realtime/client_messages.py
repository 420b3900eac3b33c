"""What clients may send, validated once: the client events of the OpenAI Realtime API."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from backend.conversation.commands import (
    Command,
    DiscardAudio,
    EndRecording,
    EndUtterance,
    InterruptReply,
    StopOutput,
)
from backend.conversation.settings import Modality
from backend.wires.json_messages import ClientEvent, Name, VoiceName, models_of, validated
from backend.wires.wire import BinaryAudio

Modalities = Annotated[list[Modality], Field(max_length=8, fail_fast=True)]
Eagerness = Literal["low", "medium", "high", "auto"]
ItemId = Annotated[str, Field(min_length=1, max_length=128)]
MetadataName = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


def modality_of(wanted: Modalities | None) -> Modality | None:
    """The modality that a list amounts to: spoken replies always have a transcript."""
    if not wanted:
        return None
    return "audio" if "audio" in wanted else "text"


class AudioFormat(BaseModel):
    """How audio is encoded."""

    type: str = "audio/pcm"
    rate: int | None = None
    channels: int | None = None
    """Not in the OpenAI API, but who says two is to know that one is heard."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        """Older clients give the name alone."""
        return {"type": value} if isinstance(value, str) else value


class TurnDetection(BaseModel):
    """What may be changed of how turns begin; None leaves a setting as it is."""

    type: Literal["semantic_vad", "server_vad"] = "semantic_vad"
    eagerness: Eagerness | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: int | None = Field(default=None, ge=1_000, le=300_000)
    """Of quiet after a reply, which then is asked for another; null for never."""


class AudioInput(BaseModel):
    """The part of the configuration about the client's audio."""

    format: AudioFormat | None = None
    sample_rate_hz: int | None = None
    transcription: dict[str, Any] | None = None
    turn_detection: TurnDetection | None = None
    """An explicit null turns the model's own replies off: `model_fields_set` tells."""


class AudioOutput(BaseModel):
    """The part of the configuration about the server's audio."""

    format: AudioFormat | None = None
    sample_rate_hz: int | None = None
    voice: VoiceName | None = None
    speed: float | None = None


class Audio(BaseModel):
    """The audio part of the configuration."""

    input: AudioInput | None = None
    output: AudioOutput | None = None


class SessionPatch(BaseModel):
    """The settings of `session.update` that are honoured; None leaves a setting as it is."""

    type: str | None = None
    tools: list[dict[str, Any]] | None = None
    audio: Audio | None = None
    output_modalities: Modalities | None = None
    instructions: str | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    # Not in the OpenAI API, as other servers of open models name them.
    modalities: Modalities | None = None
    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    decision_bias: float | None = Field(default=None, allow_inf_nan=False)
    sample_rate_hz: int | None = None
    input_audio_format: str | None = None
    output_audio_format: str | None = None
    voice: VoiceName | None = None

    @property
    def audio_input(self) -> AudioInput:
        """What it says of the client's audio."""
        return (self.audio and self.audio.input) or AudioInput()

    @property
    def audio_output(self) -> AudioOutput:
        """What it says of the server's audio."""
        return (self.audio and self.audio.output) or AudioOutput()


class ResponseOptions(BaseModel):
    """The options of `response.create` that are honoured."""

    metadata: dict[MetadataName, MetadataValue] | None = Field(default=None, max_length=16)
    output_modalities: Modalities | None = None

    @property
    def modality(self) -> Modality | None:
        """How this reply is to be given; None as the session says."""
        return modality_of(self.output_modalities)


class SessionUpdate(ClientEvent):
    """Change the configuration: a deep merge."""

    TYPE = "session.update"
    session: SessionPatch


class AppendAudio(ClientEvent):
    """More audio: base64 of little-endian PCM16, mono."""

    TYPE = "input_audio_buffer.append"
    audio: str


class PlainEvent(ClientEvent):
    """What is asked for is its type, and nothing more."""

    type: str


class CreateResponse(ClientEvent):
    """Reply now, whatever the model would decide."""

    TYPE = "response.create"
    response: ResponseOptions | None = None


class CancelResponse(ClientEvent):
    """Stop the reply in progress."""

    TYPE = "response.cancel"
    response_id: Name | None = None


class ContentPart(BaseModel):
    """A part of an item: `text` of an `input_text`, base64 PCM16 `audio` of an `input_audio`."""

    type: str = Field(max_length=32)
    text: str | None = None
    audio: str | None = None


class NewItem(BaseModel):
    """An item that the client adds."""

    id: ItemId | None = None
    type: str
    role: str | None = None
    content: list[ContentPart] = Field(default=[], max_length=16)


class CreateItem(ClientEvent):
    """Put text or audio into the conversation."""

    TYPE = "conversation.item.create"
    item: NewItem


class TruncateItem(ClientEvent):
    """Forget what was not heard of a spoken reply."""

    TYPE = "conversation.item.truncate"
    item_id: ItemId
    content_index: int = 0
    audio_end_ms: int = Field(ge=0)


class RetrieveItem(ClientEvent):
    """Tell an item."""

    TYPE = "conversation.item.retrieve"
    item_id: ItemId


class DeleteItem(ClientEvent):
    """Take an item back, which a model that has heard it cannot do."""

    TYPE = "conversation.item.delete"
    item_id: ItemId


# The rest is of the full-duplex dialect.


class PlaybackAck(ClientEvent):
    """How much of a reply was really heard."""

    TYPE = "playback.ack"
    response_id: Name | None = None
    item_id: Name | None = None
    played_ms: float = Field(ge=0, allow_inf_nan=False)
    audio_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Where in the client's own audio that was so."""


class TurnSignal(ClientEvent):
    """A hint of the client about turns; the model decides for itself."""

    TYPE = "turn.signal"


class ResumeSession(ClientEvent):
    """Take up a conversation whose socket dropped."""

    TYPE = "session.resume"
    session_id: Name
    resume_token: Name
    last_received_server_event_seq: int = Field(default=0, ge=0)


class AckEvent(ClientEvent):
    """Events up to this one have arrived and need not be kept."""

    TYPE = "session.event_ack"
    server_event_seq: int = Field(ge=0)


class Heartbeat(ClientEvent):
    """The client is there; `active` says that its user is."""

    TYPE = "session.heartbeat"
    active: bool = False


class CloseSession(ClientEvent):
    """End the conversation for good."""

    TYPE = "session.close"


ConversationMessage = (
    SessionUpdate
    | AppendAudio
    | BinaryAudio
    | PlainEvent
    | CreateResponse
    | CancelResponse
    | CreateItem
    | TruncateItem
    | RetrieveItem
    | DeleteItem
    | PlaybackAck
    | TurnSignal
)
SocketMessage = ResumeSession | AckEvent | Heartbeat | CloseSession
PLAIN_EVENTS: Mapping[str, Command] = {
    "input_audio_buffer.commit": EndUtterance(),
    "input_audio_buffer.clear": DiscardAudio(),
    "output_audio_buffer.clear": StopOutput(),
    "barge_in": InterruptReply(),
    "recording.stop": EndRecording(),
}
"""What they ask of a conversation, by their types."""
MODELS = models_of(ConversationMessage | SocketMessage) | dict.fromkeys(PLAIN_EVENTS, PlainEvent)


def session_update(session: Mapping[str, Any]) -> SessionUpdate:
    """The event that asks for these settings.

    Raises:
        WireError: they are none.
    """
    return validated({"type": SessionUpdate.TYPE, "session": session}, SessionUpdate)
