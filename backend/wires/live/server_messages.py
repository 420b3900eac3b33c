"""What the server tells clients of the OpenAI Live API."""

import base64
import json
from dataclasses import dataclass

from backend.conversation.input_audio import PCM16_BYTES
from backend.wires.audio_formats import SpeechEncoder, WireFormat
from backend.wires.errors import WireError
from backend.wires.live.output import FRAME_SECONDS
from backend.wires.wire import Fields


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


class TrackEncoder:
    """Encodes the track as the session's client wants it.

    Args:
        wanted: its format.
    """

    def __init__(self, wanted: WireFormat) -> None:
        self._speech = SpeechEncoder(wanted)
        num_samples = round(FRAME_SECONDS * wanted.rate_hz)
        self._silence = wanted.encode(bytes(num_samples * PCM16_BYTES))
        self._silent_delta = audio_delta(self._silence)
        self._is_flushed = True
        """Whether what was said last has left the filter."""

    def encode(self, pcm: bytes) -> str:
        """The message of the next piece; empty where it is silent."""
        if not pcm and self._is_flushed:
            return self._silent_delta
        self._is_flushed = not pcm
        return audio_delta(
            self._speech.encode(pcm) if pcm else self._speech.finish() + self._silence
        )


def audio_delta(audio: bytes, **span: int) -> str:
    """A piece of the track, encoded as its reader wants it."""
    # These have no ids: there are five in a second.
    delta = base64.b64encode(audio).decode("ascii")
    return json.dumps({"type": "session.output_audio.delta", "delta": delta, **span})


def answer(event_type: str, client_event_id: str | None, **fields: object) -> Fields:
    """An event that a client's own event has led to."""
    named = {} if client_event_id is None else {"client_event_id": client_event_id}
    return {"type": event_type, **named, **fields}


def info(code: str, message: str) -> Fields:
    """Something to know that is no error."""
    return {"type": "info", "code": code, "message": message}


def error_message(error: WireError) -> Fields:
    """What cannot be."""
    told = {**error.fields(), "client_event_id": error.event_id}
    return answer("error", error.event_id, error=told)
