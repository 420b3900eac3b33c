"""One reply on its way to the client: its response and item, its text and its sound."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from backend.config import SPEECH_RATE_HZ
from backend.conversation.input_audio import PCM16_BYTES
from backend.events import Decision, TurnDone, TurnStatus
from backend.speech import SpokenPiece
from backend.wires.realtime.client_messages import Modality
from backend.wires.realtime.dialect import Dialect
from backend.wires.realtime.server_messages import (
    Item,
    Metadata,
    WireEvent,
    assistant_item,
    audio_base64,
    new_id,
    reply_part,
    response_object,
    wire_event,
)

Clock = Callable[[], float]


class CancelReason(StrEnum):
    """Who stopped a reply, in the API's words."""

    CLIENT = "client_cancelled"
    """The client asked for it."""
    TURN_DETECTED = "turn_detected"
    """Somebody spoke over it."""


@dataclass(frozen=True, slots=True)
class HeardAudio:
    """A chunk for the engine: where it ends in the client's audio, and when it came."""

    seconds: float
    arrived_at: float
    speech_end_seconds: float | None = None
    """Where the speech before it ended; None where there was none lately."""
    is_added: bool = False
    """It belongs to an item that the client added, and not to its live audio."""


@dataclass(frozen=True, slots=True)
class TimedDecision:
    """A decision with the chunk it answered."""

    decision: Decision
    heard: HeardAudio
    decided_at: float

    def metadata(self) -> Metadata:
        """The numbers that clients may show."""
        decision = self.decision
        return {
            "chunk": decision.chunk,
            "seconds": round(self.heard.seconds, 3),
            "speak_probability": round(decision.speak_probability, 4),
            "speak_threshold": round(decision.threshold, 4),
            "milliseconds": round(decision.milliseconds, 2),
            "decision_ms": milliseconds_between(self.heard.arrived_at, self.decided_at),
            "positions": decision.positions,
            "max_positions": decision.max_positions,
        }


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """Where a sentence of a reply lies in its audio."""

    text: str
    """As in the transcript."""
    start_ms: float
    end_ms: float


@dataclass(frozen=True, slots=True)
class ReplyLatency:
    """How long a reply took, in milliseconds from the end of the speech that it answers."""

    decision_ms: float
    first_text_ms: float | None
    first_sound_ms: float | None


class Reply:
    """A response from its first event to its last, and what of it was heard."""

    def __init__(
        self,
        turn: int,
        answers: TimedDecision,
        metadata: Metadata,
        modality: Modality,
        dialect: Dialect,
        clock: Clock,
    ) -> None:
        self.turn = turn
        """As the engine counts replies."""
        self.response_id = new_id("resp")
        self.item_id = new_id("item")
        self.modality: Modality = modality
        self.cancel_reason: CancelReason | None = None
        self.sentences: list[SpokenSentence] = []
        self.ended_at: float | None = None
        """When its last event was told, in seconds of the clock."""
        self._answers = answers
        self._metadata = metadata
        self._dialect = dialect
        self._clock = clock
        self._texts: list[str] = []
        self._lacks_text = False
        self._done: TurnDone | None = None
        self._is_spoken = modality == "text"
        self._first_text_at: float | None = None
        self._first_audio_at: float | None = None
        self._num_audio_bytes = 0
        self._heard_ms: float | None = None

    @property
    def is_generating(self) -> bool:
        """Whether the model still has to say how it ends."""
        return self._done is None

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come of it."""
        return self._done is not None and (self._is_spoken or self.cancel_reason is not None)

    @property
    def audio_ms(self) -> float:
        """How much audio of it there is."""
        return self._num_audio_bytes / PCM16_BYTES / SPEECH_RATE_HZ * 1000

    @property
    def answered_chunk(self) -> int:
        """The chunk that it replies to."""
        return self._answers.decision.chunk

    def latency(self, starts_at_seconds: float | None = None) -> ReplyLatency | None:
        """How long it took so far; None where it answers no speech.

        Args:
            starts_at_seconds: where in the client's audio it began to sound, if the client has
                said so; without that, its sound began when it was sent.
        """
        heard = self._answers.heard
        if heard.speech_end_seconds is None:
            return None
        ended_at = heard.arrived_at - (heard.seconds - heard.speech_end_seconds)
        if starts_at_seconds is not None:
            first_sound_ms: float | None = milliseconds_between(
                heard.speech_end_seconds, starts_at_seconds
            )
        else:
            first_sound_ms = _milliseconds_until(self._first_audio_at, ended_at)
        return ReplyLatency(
            decision_ms=milliseconds_between(ended_at, self._answers.decided_at),
            first_text_ms=_milliseconds_until(self._first_text_at, ended_at),
            first_sound_ms=first_sound_ms,
        )

    def opening(
        self, session_id: str, epoch: int, previous_item_id: str | None
    ) -> Iterator[WireEvent]:
        """What announces it."""
        yield wire_event(
            "response.created",
            response=response_object(
                self.response_id, "in_progress", self.modality, self._metadata, []
            ),
        )
        if self._dialect is Dialect.DUPLEX:
            yield wire_event(
                "response.speak",
                session_id=session_id,
                epoch=epoch,
                metadata=self._metadata,
                **self._part_ids(),
            )
        item = self.item("in_progress", None)
        yield wire_event(
            "response.output_item.added", response_id=self.response_id, output_index=0, item=item
        )
        yield wire_event("conversation.item.added", item=item, previous_item_id=previous_item_id)
        yield wire_event(
            "response.content_part.added", part=reply_part(self.modality, ""), **self._part_ids()
        )

    def add_text(self, delta: str) -> Iterator[WireEvent]:
        """More of its text; what is written after it was cancelled is not told."""
        if self.cancel_reason is not None:
            self._lacks_text = True
            return
        if self._first_text_at is None:
            self._first_text_at = self._clock()
        self._texts.append(delta)
        yield wire_event(f"{self._text_event}.delta", delta=delta, **self._part_ids())

    def add_sound(self, piece: SpokenPiece) -> Iterator[WireEvent]:
        """More of its sound."""
        if self._first_audio_at is None:
            self._first_audio_at = self._clock()
        start_ms = self.audio_ms
        self._num_audio_bytes += len(piece.pcm)
        if not piece.is_first_of_sentence:
            start_of_sentence_ms = self.sentences.pop().start_ms
        else:
            start_of_sentence_ms = start_ms
        self.sentences.append(SpokenSentence(piece.sentence, start_of_sentence_ms, self.audio_ms))
        extra: Metadata = {}
        if self._dialect is Dialect.DUPLEX:
            extra = {"sample_rate_hz": SPEECH_RATE_HZ, "audio_start_ms": round(start_ms, 1)}
            if piece.is_first_of_sentence:
                extra["sentence"] = piece.sentence
        yield wire_event(
            "response.output_audio.delta",
            delta=audio_base64(piece.pcm),
            **extra,
            **self._part_ids(),
        )

    def spoken(self, voice: str | None) -> None:
        """All of its sound has been told; `voice` is the one that was heard."""
        self._is_spoken = True
        if voice is not None:
            self._metadata["voice"] = voice

    def text_leaves(self, voice: str) -> None:
        """The online voice `voice` is asked to say it: whatever comes of that, it has the text."""
        self._metadata["online_voice"] = voice

    def generated(self, done: TurnDone) -> None:
        """The model is done with it."""
        self._done = done

    def closing(self) -> Iterator[WireEvent]:
        """What ends it, once it is complete."""
        assert self._done is not None, "a reply that the model still generates cannot end"
        self.ended_at = self._clock()
        text = "".join(self._texts)
        status, reason = self._status(self._done.status)
        item = self.item(self._item_status(), text)
        if self.modality == "audio":
            yield wire_event("response.output_audio.done", **self._part_ids())
            yield wire_event(f"{self._text_event}.done", transcript=text, **self._part_ids())
        else:
            yield wire_event(f"{self._text_event}.done", text=text, **self._part_ids())
        yield wire_event(
            "response.content_part.done", part=reply_part(self.modality, text), **self._part_ids()
        )
        yield wire_event(
            "response.output_item.done", response_id=self.response_id, output_index=0, item=item
        )
        yield wire_event("conversation.item.done", item=item)
        yield wire_event(
            "response.done",
            response=response_object(
                self.response_id,
                status,
                self.modality,
                self._metadata | self._timing(),
                [item],
                reason,
            ),
        )

    def item(self, status: str, text: str | None) -> Item:
        """Its item, in progress without a text."""
        return assistant_item(self.item_id, status, self.modality, text)

    def truncate(self, heard_ms: float) -> None:
        """Of its text only what was heard is left in its item."""
        self._heard_ms = heard_ms

    def lasting_item(self) -> Item:
        """Its item as the conversation keeps it."""
        text = "".join(self._texts) if self._heard_ms is None else self.heard_text(self._heard_ms)
        return self.item(self._item_status(), text)

    def _item_status(self) -> str:
        if self._done is None:
            return "in_progress"
        status, _ = self._status(self._done.status)
        return "completed" if status == "completed" else "incomplete"

    def heard_text(self, played_ms: float) -> str:
        """What was heard of its text after so much of its audio: whole words."""
        heard = ""
        for sentence in self.sentences:
            if played_ms >= sentence.end_ms:
                heard += sentence.text
                continue
            share = (played_ms - sentence.start_ms) / (sentence.end_ms - sentence.start_ms)
            if share > 0:
                heard += _whole_words(sentence.text, share)
            break
        return heard

    def _status(self, generated: TurnStatus) -> tuple[str, str | None]:
        is_whole = self._is_spoken and not self._lacks_text
        was_cut = generated is TurnStatus.CANCELLED or not is_whole
        if self.cancel_reason is not None and was_cut:
            return "cancelled", self.cancel_reason.value
        match generated:
            case TurnStatus.COMPLETED:
                return "completed", None
            case TurnStatus.CANCELLED:
                return "cancelled", CancelReason.CLIENT.value
            case TurnStatus.INCOMPLETE:
                return "incomplete", "max_output_tokens"

    def _timing(self) -> Metadata:
        """Counted from when the answered chunk was complete here."""
        arrived_at = self._answers.heard.arrived_at
        timing = {"reply_ms": milliseconds_between(arrived_at, self._clock())}
        if self._first_text_at is not None:
            timing["latency_ms"] = milliseconds_between(arrived_at, self._first_text_at)
        if self._first_audio_at is not None:
            timing["first_audio_ms"] = milliseconds_between(arrived_at, self._first_audio_at)
        return timing

    @property
    def _text_event(self) -> str:
        if self.modality == "audio":
            return "response.output_audio_transcript"
        return "response.output_text"

    def _part_ids(self) -> dict[str, str | int]:
        """The fields that name its only content part."""
        return {
            "response_id": self.response_id,
            "item_id": self.item_id,
            "output_index": 0,
            "content_index": 0,
        }


def _milliseconds_until(end: float | None, start: float) -> float | None:
    return None if end is None else milliseconds_between(start, end)


def milliseconds_between(start: float, end: float) -> float:
    """Of two times in seconds."""
    return round((end - start) * 1000, 1)


def _whole_words(text: str, share: float) -> str:
    """The first part of `text`, about `share` of it; text without spaces is cut anywhere."""
    length = round(len(text) * share)
    if " " not in text.strip():
        return text[:length]
    end = text.rfind(" ", 0, length + 1)
    return text[: max(end, 0)]
