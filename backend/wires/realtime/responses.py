"""Replies as responses: their ids, their metadata, and the messages that tell of them."""

import base64
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from backend.config import LISTENING_POSITIONS
from backend.conversation.events import (
    CancelReason,
    ChunkDecision,
    ReplyEnded,
    ReplySound,
    ReplyStarted,
    ReplyText,
    ReplyTruncated,
    ReplyWithheld,
)
from backend.conversation.settings import Modality
from backend.events import TurnStatus
from backend.wires.audio_formats import SpeechEncoder, WireFormat
from backend.wires.realtime.items import Items, reply_item, reply_part
from backend.wires.realtime.session import Dialect
from backend.wires.wire import Fields, new_id

MAX_METADATA_KEYS = 16
"""Of a response, in the API."""
FOREMOST = frozenset(
    {
        "emotion",
        "voice",
        "online_voice",
        "chunk",
        "seconds",
        "speak_probability",
        "latency_ms",
        "kept_silent",
    }
)
"""What no metadata of a client's pushes out; our other numbers go before a client's do."""
MAX_RESPONSES = 16
"""More than a conversation remembers replies."""
MAX_REQUESTS = 8
"""More than are ever open."""

_REASONS = {CancelReason.CLIENT: "client_cancelled", CancelReason.VOICE: "turn_detected"}


@dataclass(slots=True)
class _Response:
    """What a reply is called, and what clients are shown with it."""

    response_id: str = field(default_factory=lambda: new_id("resp"))
    item_id: str = field(default_factory=lambda: new_id("item"))
    own_metadata: Fields = field(default_factory=dict)
    client_metadata: Mapping[str, str] = field(default_factory=dict)
    modality: Modality = "text"
    num_input_tokens: int = 0
    speech: SpeechEncoder = field(default_factory=lambda: SpeechEncoder(WireFormat()))
    heard_text: str | None = None
    """What was heard, where that is not all."""

    def part_ids(self) -> Fields:
        """The fields that name its only content part."""
        return {
            "response_id": self.response_id,
            "item_id": self.item_id,
            "output_index": 0,
            "content_index": 0,
        }

    def metadata(self) -> dict[str, str]:
        """Strings and few, as the API has it; the client's own come first where all fit."""
        everything = {**self.client_metadata, **self.own_metadata}
        own = self.own_metadata.keys()
        foremost = [name for name in own if name in FOREMOST]
        given = [name for name in self.client_metadata if name not in own]
        others = [name for name in own if name not in FOREMOST]
        kept = frozenset([*foremost, *given, *others][:MAX_METADATA_KEYS])
        return {name: str(value) for name, value in everything.items() if name in kept}


class Responses:
    """The responses of one conversation."""

    def __init__(self, items: Items, dialect: Dialect, session_id: str) -> None:
        self._items = items
        self._dialect = dialect
        self._session_id = session_id
        self._responses: OrderedDict[int, _Response] = OrderedDict()
        """By turn."""
        self._requested: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        """What clients want to be told with the replies that they asked for, by request."""
        self._current: _Response | None = None

    @property
    def current_id(self) -> str | None:
        """The response in progress; None before its first message and after its last."""
        return self._current.response_id if self._current else None

    def response_id(self, turn: int) -> str:
        """What a reply is called."""
        return self._of(turn).response_id

    def item_id(self, turn: int) -> str:
        """What its item is called."""
        return self._of(turn).item_id

    def find_turn(self, response_id: str | None, item_id: str | None) -> int | None:
        """A reply of late by one of its ids; without any, the latest. None where it is none."""
        if response_id is None and item_id is None:
            return next(reversed(self._responses), None)
        by_id = {response.response_id: turn for turn, response in self._responses.items()}
        by_item = {response.item_id: turn for turn, response in self._responses.items()}
        return by_id.get(response_id or "", by_item.get(item_id or ""))

    def requested(self, request_id: str, metadata: Mapping[str, str]) -> None:
        """The client asks for a reply, and wants to be told this with it."""
        self._requested[request_id] = metadata
        while len(self._requested) > MAX_REQUESTS:
            self._requested.popitem(last=False)

    def start(self, started: ReplyStarted, output: WireFormat) -> Iterator[Fields]:
        """What announces a reply, whose sound is to be told as `output`."""
        response = self._current = self._of(started.turn)
        response.modality = started.modality
        response.own_metadata = _reply_metadata(started)
        response.speech = SpeechEncoder(output)
        response.num_input_tokens = started.decision.positions
        if started.request_id is not None:
            response.client_metadata = self._requested.pop(started.request_id, {})
        response_id, ids = response.response_id, response.part_ids()
        item = reply_item(response.item_id, "in_progress", started.modality, None)
        previous_id = self._items.add(item)
        created = _response_object(response, "in_progress", [])
        yield {"type": "response.created", "response": created}
        if self._dialect is Dialect.DUPLEX:
            yield {
                "type": "response.speak",
                "session_id": self._session_id,
                "epoch": started.turn + 1,
                "metadata": {**response.client_metadata, **response.own_metadata},
                **ids,
            }
        yield {
            "type": "response.output_item.added",
            "response_id": response_id,
            "output_index": 0,
            "item": item,
        }
        yield {"type": "conversation.item.added", "item": item, "previous_item_id": previous_id}
        part = reply_part(started.modality, "")
        yield {"type": "response.content_part.added", "part": part, **ids}

    def text(self, text: ReplyText) -> Fields:
        """More of its text."""
        response = self._of(text.turn)
        is_spoken = response.modality == "audio"
        kind = "output_audio_transcript" if is_spoken else "output_text"
        return {"type": f"response.{kind}.delta", "delta": text.delta, **response.part_ids()}

    def sound(self, sound: ReplySound) -> Fields:
        """More of its sound."""
        response = self._of(sound.turn)
        message = _audio_delta(response, response.speech.encode(sound.pcm))
        if self._dialect is Dialect.DUPLEX:
            message["sample_rate_hz"] = response.speech.format.rate_hz
            message["audio_start_ms"] = round(sound.start_ms, 1)
            if sound.is_first_of_sentence:
                message["sentence"] = sound.sentence
        return message

    def end(self, ended: ReplyEnded) -> Iterator[Fields]:
        """What ends it."""
        response, modality, text = self._of(ended.turn), ended.modality, ended.text
        self._current = None
        response.modality = modality
        response.own_metadata |= _end_metadata(ended)
        status, reason = _status(ended)
        item_status = "completed" if status == "completed" else "incomplete"
        item = reply_item(response.item_id, item_status, modality, text)
        kept = text if response.heard_text is None else response.heard_text
        self._items.change(reply_item(response.item_id, item_status, modality, kept))
        response_id, ids = response.response_id, response.part_ids()
        if modality == "audio":
            if rest := response.speech.finish():
                yield _audio_delta(response, rest)
            yield {"type": "response.output_audio.done", **ids}
            yield {"type": "response.output_audio_transcript.done", "transcript": text, **ids}
        else:
            yield {"type": "response.output_text.done", "text": text, **ids}
        part = reply_part(modality, text)
        yield {"type": "response.content_part.done", "part": part, **ids}
        yield {
            "type": "response.output_item.done",
            "response_id": response_id,
            "output_index": 0,
            "item": item,
        }
        yield {"type": "conversation.item.done", "item": item}
        done = _response_object(response, status, [item], reason, _usage(response, ended))
        yield {"type": "response.done", "response": done}

    def truncate(self, truncated: ReplyTruncated) -> Fields:
        """Only its beginning was heard."""
        response = self._of(truncated.turn)
        response.heard_text = truncated.heard_text
        kept = self._items.find(response.item_id)
        self._items.change(
            reply_item(response.item_id, kept["status"], "audio", truncated.heard_text)
        )
        return {
            "type": "conversation.item.truncated",
            "item_id": response.item_id,
            "content_index": 0,
            "audio_end_ms": round(truncated.heard_ms),
        }

    def withhold(self, withheld: ReplyWithheld) -> Iterator[Fields]:
        """A response without output: the model has kept silent."""
        response = _Response(
            client_metadata=self._requested.pop(withheld.request_id, {}),
            modality=withheld.modality,
        )
        created = _response_object(response, "in_progress", [])
        yield {"type": "response.created", "response": created}
        if withheld.cancel_reason is None:
            response.own_metadata["kept_silent"] = "true"
            done = _response_object(response, "completed", [])
        else:
            done = _response_object(response, "cancelled", [], _REASONS[withheld.cancel_reason])
        yield {"type": "response.done", "response": done}

    def _of(self, turn: int) -> _Response:
        if (response := self._responses.get(turn)) is None:
            response = self._responses[turn] = _Response()
            while len(self._responses) > MAX_RESPONSES:
                self._responses.popitem(last=False)
        return response


def _audio_delta(response: _Response, audio: bytes) -> Fields:
    delta = base64.b64encode(audio).decode("ascii")
    return {"type": "response.output_audio.delta", "delta": delta, **response.part_ids()}


def decision_metadata(decision: ChunkDecision) -> Fields:
    """The numbers of a decision that clients may show."""
    return {
        "chunk": decision.chunk,
        "seconds": round(decision.seconds, 3),
        "speak_probability": round(decision.speak_probability, 4),
        "speak_threshold": round(decision.threshold, 4),
        "milliseconds": round(decision.milliseconds, 2),
        "decision_ms": round(decision.decision_ms, 1),
        "positions": decision.positions,
        "max_positions": decision.max_positions,
    }


def _reply_metadata(started: ReplyStarted) -> Fields:
    metadata = decision_metadata(started.decision)
    if started.emotion is not None:
        metadata["emotion"] = started.emotion.value
    if started.decision.speech_end_seconds is not None:
        metadata["speech_end_seconds"] = round(started.decision.speech_end_seconds, 3)
    return metadata


def _end_metadata(ended: ReplyEnded) -> Fields:
    """Milliseconds count from when the answered chunk was complete here."""
    metadata: Fields = {}
    if ended.online_voice_id is not None:
        metadata["online_voice"] = ended.online_voice_id
    if ended.voice_id is not None:
        metadata["voice"] = ended.voice_id
    metadata["reply_ms"] = round(ended.reply_ms, 1)
    if ended.first_text_ms is not None:
        metadata["latency_ms"] = round(ended.first_text_ms, 1)
    if ended.first_sound_ms is not None:
        metadata["first_audio_ms"] = round(ended.first_sound_ms, 1)
    return metadata


def _status(ended: ReplyEnded) -> tuple[str, str | None]:
    match ended.status:
        case TurnStatus.COMPLETED:
            return "completed", None
        case TurnStatus.CANCELLED:
            return "cancelled", _REASONS[ended.cancel_reason or CancelReason.CLIENT]
        case TurnStatus.INCOMPLETE:
            return "incomplete", "max_output_tokens"


def _response_object(
    response: _Response,
    status: str,
    output: list[Fields],
    reason: str | None = None,
    usage: Fields | None = None,
) -> Fields:
    return {
        "id": response.response_id,
        "object": "realtime.response",
        "status": status,
        "status_details": {"type": status, "reason": reason} if reason else None,
        "output": output,
        "output_modalities": [response.modality],
        "metadata": response.metadata(),
        "usage": usage,
    }


def _usage(response: _Response, ended: ReplyEnded) -> Fields:
    """In positions of the model's context: what it had taken in by then, and what it said."""
    num_input, num_output = response.num_input_tokens, ended.num_tokens
    return {
        "total_tokens": num_input + num_output,
        "input_tokens": num_input,
        "output_tokens": num_output,
        "input_token_details": {
            "text_tokens": 0,
            "audio_tokens": num_input,
            "cached_tokens": max(num_input - LISTENING_POSITIONS, 0),
        },
        "output_token_details": {"text_tokens": num_output, "audio_tokens": 0},
    }
