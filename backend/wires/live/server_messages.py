"""What the server tells clients: the server events of the OpenAI Live API as JSON objects."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from backend.wires.errors import WireError
from backend.wires.wire import new_id

Fields = dict[str, Any]
"""A message as JSON, but for its id."""


@dataclass(frozen=True, slots=True)
class HeardAudio:
    """What the client has sent, for those who look on: PCM16."""

    pcm: bytes
    rate_hz: int


@dataclass(frozen=True, slots=True)
class SaidAudio:
    """A piece of the track, PCM16 at 24 kHz; empty where it is silent."""

    pcm: bytes
    start_ms: int
    end_ms: int


LiveMessage = Fields | HeardAudio | SaidAudio


def encoded(message: Fields) -> str:
    """A message as JSON, with an id of its own."""
    fields = {"type": message["type"], "event_id": new_id("event"), **message}
    return json.dumps(fields, ensure_ascii=False)


def audio_delta(audio: bytes, **span: int) -> str:
    """A piece of the track, encoded as its reader wants it."""
    # These have no ids: there are five in a second.
    delta = base64.b64encode(audio).decode("ascii")
    return json.dumps({"type": "session.output_audio.delta", "delta": delta, **span})


def answer(event_type: str, client_event_id: str | None) -> Fields:
    """An event that a client's own event has led to."""
    named = {} if client_event_id is None else {"client_event_id": client_event_id}
    return {"type": event_type, **named}


def info(code: str, message: str) -> Fields:
    """Something to know that is no error."""
    return {"type": "info", "code": code, "message": message}


def error_message(error: WireError) -> Fields:
    """What cannot be."""
    return answer("error", error.event_id) | {
        "error": {
            "type": error.error_type.value,
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "client_event_id": error.event_id,
        }
    }
