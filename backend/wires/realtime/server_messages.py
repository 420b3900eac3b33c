"""Server events as JSON objects, in the shapes of the OpenAI Realtime API."""

import base64
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from backend.config import CHUNK_SECONDS
from backend.conversation.settings import GA_RATE_HZ, NO_TURN_TAKING, ConversationSettings
from backend.recordings.live import LiveRecording, Stopped, StopReason
from backend.wires.errors import WireError
from backend.wires.realtime.client_messages import Modality

WireEvent = dict[str, Any]
Item = dict[str, Any]
Metadata = dict[str, Any]

MAX_METADATA_KEYS = 16
"""Of a response, in the API."""


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


def session_object(config: ConversationSettings, session_id: str, model: str) -> dict[str, Any]:
    """The whole configuration that is in force."""
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": [config.modality],
        "instructions": config.instructions,
        "max_output_tokens": config.max_output_tokens,
        "temperature": config.sampling.temperature,
        "top_k": config.sampling.top_k,
        "seed": config.seed,
        "decision_bias": config.decision_bias,
        "tools": [],
        "tool_choice": "auto",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": config.input_rate_hz},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": _turn_detection(config),
            },
            "output": {
                "format": {"type": "audio/pcm", "rate": GA_RATE_HZ},
                "voice": config.voice,
                "speed": config.speed,
            },
        },
    }


def _turn_detection(config: ConversationSettings) -> dict[str, Any] | None:
    taking = config.turn_taking
    if taking == NO_TURN_TAKING:
        return None
    detection = {
        "type": taking.type,
        "create_response": taking.create_response,
        "interrupt_response": taking.interrupt_response,
    }
    # The API knows eagerness for this type alone.
    return detection | ({"eagerness": config.eagerness} if taking.type == "semantic_vad" else {})


def duplex_capabilities(voices: Sequence[Mapping[str, Any]], max_positions: int) -> dict[str, Any]:
    """What a client of the full-duplex dialect may adapt to."""
    return {
        "chunk_period_ms": round(CHUNK_SECONDS * 1000),
        "max_positions": max_positions,
        "voices": list(voices),
        "supports_audio_output": True,
        "supports_barge_in": True,
        "supports_decision_bias": True,
        "supports_playback_ack": True,
        "supports_resume": True,
        "supports_text_input": True,
    }


def recording_started(recording: LiveRecording) -> WireEvent:
    """What is said from here on is recorded."""
    return wire_event(
        "recording.started",
        recording_id=recording.recording_id,
        title=recording.title,
        started_at=recording.started_at.isoformat(timespec="seconds"),
    )


def recording_stopped(stopped: Stopped) -> WireEvent:
    """Nothing is recorded any more; the file is there."""
    event = wire_event(
        "recording.stopped",
        recording_id=stopped.recording_id,
        seconds=stopped.seconds,
        bytes=stopped.num_bytes,
        reason=stopped.reason.value,
    )
    return event if stopped.message is None else event | {"message": stopped.message}


def recording_ends(recording: LiveRecording) -> WireEvent:
    """The recording ends with the conversation; its size is known when it is packed."""
    return wire_event(
        "recording.stopped",
        recording_id=recording.recording_id,
        seconds=recording.seconds,
        bytes=None,
        reason=StopReason.SESSION_ENDED.value,
    )


def user_audio_item(item_id: str) -> Item:
    """A user's utterance; there is no transcript of it."""
    return given_item(item_id, "user", [{"type": "input_audio", "transcript": None}])


def given_item(item_id: str, role: str, content: list[dict[str, Any]]) -> Item:
    """What a client has put into the conversation."""
    return _item(item_id, "completed", role, content)


def assistant_item(item_id: str, status: str, modality: Modality, text: str | None) -> Item:
    """A reply; without content while it is in progress."""
    content = [] if text is None else [reply_content(modality, text)]
    return _item(item_id, status, "assistant", content)


def reply_content(modality: Modality, text: str) -> dict[str, str]:
    """The only content part of a reply, as an item holds it."""
    if modality == "audio":
        return {"type": "output_audio", "transcript": text}
    return {"type": "output_text", "text": text}


def reply_part(modality: Modality, text: str) -> dict[str, str]:
    """The same part as the events of content parts hold it."""
    if modality == "audio":
        return {"type": "audio", "transcript": text}
    return {"type": "text", "text": text}


def _item(item_id: str, status: str, role: str, content: list[dict[str, Any]]) -> Item:
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }


def response_object(
    response_id: str,
    status: str,
    modality: Modality,
    metadata: Metadata,
    output: list[Item],
    status_reason: str | None = None,
) -> dict[str, Any]:
    """A response; its metadata are strings and few, as the API has it."""
    kept = list(metadata.items())[:MAX_METADATA_KEYS]
    details = {"type": status, "reason": status_reason} if status_reason else None
    return {
        "id": response_id,
        "object": "realtime.response",
        "status": status,
        "status_details": details,
        "output": output,
        "output_modalities": [modality],
        "metadata": {name: str(value) for name, value in kept},
        "usage": None,
    }


def audio_base64(pcm: bytes) -> str:
    """PCM16 bytes as events carry them."""
    return base64.b64encode(pcm).decode("ascii")
