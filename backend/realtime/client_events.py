"""Client events: what may arrive, validated once."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from backend.realtime.errors import WireError

MAX_MESSAGE_CHARACTERS = 4 * 1024 * 1024
"""Of one message; in base64 PCM16 this is more than a minute of audio at 24 kHz."""


class AudioFormat(BaseModel):
    """How audio is encoded."""

    type: str = "audio/pcm"
    rate: int | None = None


class AudioInput(BaseModel):
    """The part of the configuration about the client's audio."""

    format: AudioFormat | None = None
    sample_rate_hz: int | None = None


class Audio(BaseModel):
    """The audio part of the configuration."""

    input: AudioInput | None = None


class SessionPatch(BaseModel):
    """The settings of `session.update` that are honoured; None leaves a setting as it is."""

    audio: Audio | None = None
    instructions: str | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    # Not in the OpenAI API, as other servers of open models name them.
    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    sample_rate_hz: int | None = None
    input_audio_format: str | None = None


class ResponseOptions(BaseModel):
    """The options of `response.create` that are honoured."""

    metadata: dict[str, str] | None = Field(default=None, max_length=8)


class ClientEvent(BaseModel):
    """Base of all client events."""

    model_config = ConfigDict(frozen=True)
    TYPE: ClassVar[str]

    event_id: str | None = None


class SessionUpdate(ClientEvent):
    """Change the configuration: a deep merge."""

    TYPE = "session.update"
    session: SessionPatch


class AppendAudio(ClientEvent):
    """More audio: base64 of little-endian PCM16, mono."""

    TYPE = "input_audio_buffer.append"
    audio: str


class CommitAudio(ClientEvent):
    """The utterance is over: what does not fill a chunk is padded and heard."""

    TYPE = "input_audio_buffer.commit"


class ClearAudio(ClientEvent):
    """Forget the audio that does not fill a chunk yet."""

    TYPE = "input_audio_buffer.clear"


class CreateResponse(ClientEvent):
    """Reply now, whatever the model would decide."""

    TYPE = "response.create"
    response: ResponseOptions | None = None


class CancelResponse(ClientEvent):
    """Stop the reply in progress."""

    TYPE = "response.cancel"
    response_id: str | None = None


AnyClientEvent = (
    SessionUpdate | AppendAudio | CommitAudio | ClearAudio | CreateResponse | CancelResponse
)

_MODELS: dict[str, type[AnyClientEvent]] = {
    model.TYPE: model
    for model in (
        SessionUpdate,
        AppendAudio,
        CommitAudio,
        ClearAudio,
        CreateResponse,
        CancelResponse,
    )
}


def parse_client_event(message: str) -> AnyClientEvent:
    """The event that a message holds.

    Raises:
        WireError: too long, not JSON, not an event, of an unknown type, or with a wrong field.
    """
    if len(message) > MAX_MESSAGE_CHARACTERS:
        raise WireError(
            f"a message may have {MAX_MESSAGE_CHARACTERS} characters, this one has {len(message)}",
            "message_too_large",
        )
    try:
        fields = from_json(message)
    except ValueError as error:
        raise WireError(f"the message is not JSON: {error}", "invalid_json") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise WireError("a message is an object with a `type`", "invalid_event", "type")
    return _validate(fields)


def _validate(fields: dict[str, Any]) -> AnyClientEvent:
    given_id = fields.get("event_id")
    event_id = given_id if isinstance(given_id, str) else None
    model = _MODELS.get(fields["type"])
    if model is None:
        raise WireError(
            f"unknown event type {fields['type'][:64]!r}; known are {', '.join(_MODELS)}",
            "unknown_event_type",
            "type",
            event_id,
        )
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"])
        raise WireError(f"{param}: {first['msg']}", "invalid_value", param, event_id) from error
