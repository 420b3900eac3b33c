"""Messages as JSON objects with a type: read within limits, and checked once."""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from backend.wires.errors import WireError

MAX_MESSAGE_CHARACTERS = 4 * 1024 * 1024
"""Of one message; in base64 PCM16 this is more than a minute of audio at 24 kHz."""
MAX_MESSAGE_VALUES = 20_000
"""In one message: audio of any length is one, and hundreds of tools are thousands."""
MAX_ECHO_CHARACTERS = 200
"""Of what a client sent, in what it is told is wrong with it."""

EventId = Annotated[str, Field(max_length=MAX_ECHO_CHARACTERS)]
Name = Annotated[str, Field(max_length=128)]
"""Of what the server has named: a response, a session, a voice."""


class ClientEvent(BaseModel):
    """Base of all that clients send."""

    model_config = ConfigDict(frozen=True)
    TYPE: ClassVar[str]

    event_id: EventId | None = None


def _named(voice: object) -> object:
    """The id of a voice as an object, which OpenAI's APIs allow too."""
    return voice["id"] if isinstance(voice, dict) and "id" in voice else voice


VoiceName = Annotated[Name, BeforeValidator(_named)]


EventT = TypeVar("EventT", bound=ClientEvent)


def models_of(messages: Any) -> dict[str, type[Any]]:
    """The models of a union of messages that are events, by their types."""
    models = [model for model in get_args(messages) if hasattr(model, "TYPE")]
    return {model.TYPE: model for model in models}


def parse_event(message: str, models: Mapping[str, type[EventT]]) -> EventT:
    """The event that a message holds.

    Args:
        message: JSON.
        models: of the events, by their types.

    Raises:
        WireError: too long or of too many values, not JSON, not an event, of an unknown type, or
            with a wrong field.
    """
    if len(message) > MAX_MESSAGE_CHARACTERS:
        raise WireError(
            f"a message may have {MAX_MESSAGE_CHARACTERS} characters, this one has {len(message)}",
            "message_too_large",
        )
    # Each is an object in memory, and to make millions of them takes long. In a text there are few.
    if sum(map(message.count, "[{,")) > MAX_MESSAGE_VALUES:
        raise WireError(
            f"a message may have {MAX_MESSAGE_VALUES} values, this one has more",
            "message_too_large",
        )
    try:
        fields = from_json(message)
    except ValueError as error:
        raise WireError(f"the message is not JSON: {error}", "invalid_json") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise WireError("a message is an object with a `type`", "invalid_event", "type")
    model = models.get(fields["type"])
    if model is None:
        raise WireError(
            f"unknown event type {fields['type'][:64]!r}; known are {', '.join(models)}",
            "unknown_event_type",
            "type",
            _event_id(fields),
        )
    return validated(fields, model)


def validated(fields: Mapping[str, Any], model: type[EventT]) -> EventT:
    """The event of these fields.

    Raises:
        WireError: one of them is wrong.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"])[:MAX_ECHO_CHARACTERS]
        message = f"{param}: {first['msg']}"
        raise WireError(message, "invalid_value", param, _event_id(fields)) from error


def _event_id(fields: Mapping[str, Any]) -> str | None:
    given_id = fields.get("event_id")
    return given_id[:MAX_ECHO_CHARACTERS] if isinstance(given_id, str) else None


def decoded_base64(encoded: str) -> bytes:
    """The bytes of base64 text.

    Raises:
        WireError: it is none.
    """
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(f"the audio is not base64: {error}", "invalid_base64", "audio") from error
