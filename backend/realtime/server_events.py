"""Server events as JSON objects, in the shapes of the OpenAI Realtime API."""

import secrets
from typing import Any

from backend.config import CHUNK_SECONDS
from backend.events import TurnStatus
from backend.realtime.errors import WireError
from backend.realtime.session_config import SessionConfig

WireEvent = dict[str, Any]
Metadata = dict[str, Any]

_CANCELLED_DETAILS = {"type": "cancelled", "reason": "client_cancelled"}
_INCOMPLETE_DETAILS = {"type": "incomplete", "reason": "max_output_tokens"}


def new_id(prefix: str) -> str:
    """An id that nobody can guess, such as `resp_0f3c...`."""
    return f"{prefix}_{secrets.token_hex(10)}"


def wire_event(event_type: str, **fields: Any) -> WireEvent:
    """An event with an id of its own."""
    return {"type": event_type, "event_id": new_id("event"), **fields}


def error_event(error: WireError) -> WireEvent:
    """`error`: never a warning, many clients end on it."""
    return wire_event(
        "error",
        error={
            "type": error.error_type.value,
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "event_id": error.event_id,
        },
    )


def session_object(config: SessionConfig, session_id: str, model: str) -> dict[str, Any]:
    """The whole configuration that is in force."""
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": ["text"],
        "instructions": config.instructions,
        "max_output_tokens": config.max_output_tokens,
        "temperature": config.sampling.temperature,
        "top_k": config.sampling.top_k,
        "seed": config.seed,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": config.input_rate_hz},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": {
                    "type": "semantic_vad",
                    "create_response": True,
                    "interrupt_response": False,
                },
            }
        },
    }


def duplex_capabilities() -> dict[str, Any]:
    """What a client of the full-duplex dialect may adapt to."""
    return {"chunk_period_ms": round(CHUNK_SECONDS * 1000), "supports_audio_output": False}


def user_item(item_id: str) -> dict[str, Any]:
    """A user's utterance; there is no transcript of it."""
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }


def assistant_item(item_id: str, status: str, text: str | None) -> dict[str, Any]:
    """A reply; without content while it is in progress."""
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [] if text is None else [{"type": "output_text", "text": text}],
    }


def response_object(
    response_id: str,
    status: str,
    metadata: Metadata,
    output: list[dict[str, Any]],
    status_details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A response; its metadata are strings, as the API has it."""
    return {
        "id": response_id,
        "object": "realtime.response",
        "status": status,
        "status_details": status_details,
        "output": output,
        "output_modalities": ["text"],
        "metadata": {name: str(value) for name, value in metadata.items()},
        "usage": None,
    }


def status_details(status: TurnStatus) -> dict[str, Any] | None:
    """Why a response did not complete."""
    match status:
        case TurnStatus.COMPLETED:
            return None
        case TurnStatus.CANCELLED:
            return _CANCELLED_DETAILS
        case TurnStatus.INCOMPLETE:
            return _INCOMPLETE_DETAILS
