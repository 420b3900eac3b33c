"""One reply: its text and its sound, how it ended, and what of it was heard."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.config import SPEECH_RATE_HZ
from backend.conversation.events import (
    CancelReason,
    ReplyEnded,
    ReplySound,
    ReplyStarted,
    ReplyText,
    ReplyTruncated,
)
from backend.conversation.input_audio import PCM16_BYTES
from backend.conversation.settings import Modality
from backend.events import TurnDone, TurnStatus
from backend.speech import SpokenPiece

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """Where a sentence of a reply lies in its sound."""

    text: str
    """As in the text of the reply."""
    start_ms: float
    end_ms: float


@dataclass(frozen=True, slots=True)
class ReplyLatency:
    """How long a reply took, in milliseconds from the end of the speech that it answers."""

    decision_ms: float
    first_text_ms: float | None
    first_sound_ms: float | None


@dataclass(frozen=True, slots=True)
class Unsaid:
    """What of a reply's text has no sound yet, from the beginning of a sentence."""

    text: str
    num_sounded_bytes: int
    """Of that sentence, that have been told."""
    is_all: bool
    """Whether no more text comes."""


class Reply:
    """A reply from its beginning to its end.

    Args:
        started: how it begins.
        arrived_at: when the chunk that it answers was complete, in seconds of the clock.
        clock: for what it takes.
    """

    def __init__(self, started: ReplyStarted, arrived_at: float, clock: Clock) -> None:
        self.turn = started.turn
        """As the engine counts replies."""
        self.modality: Modality = started.modality
        self.emotion = started.emotion
        self.answered_chunk = started.decision.chunk
        self.cancel_reason: CancelReason | None = None
        self.ended_at: float | None = None
        """When its end was told, in seconds of the clock."""
        self.audio_ms = 0.0
        """How much sound of it there is."""
        self._decision = started.decision
        self._arrived_at = arrived_at
        self._clock = clock
        self._texts: list[str] = []
        self._lacks_text = False
        self._done: TurnDone | None = None
        self._is_spoken = started.modality == "text"
        self._sentences: list[SpokenSentence] = []
        self._first_text_at: float | None = None
        self._first_sound_at: float | None = None
        self._num_audio_bytes = 0
        self._voice_id: str | None = None
        self._online_voice_id: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clock": None}

    def take_up(self, clock: Clock, later_seconds: float) -> None:
        """Go on by another clock, which says so much more than the one before."""
        self._clock = clock
        self._arrived_at += later_seconds
        if self._first_text_at is not None:
            self._first_text_at += later_seconds
        if self._first_sound_at is not None:
            self._first_sound_at += later_seconds
        if self.ended_at is not None:
            self.ended_at += later_seconds

    @property
    def unsaid(self) -> "Unsaid | None":
        """What its voice has yet to say; None where nothing is, or no voice says it."""
        if self._is_spoken or self.cancel_reason is not None:
            return None
        text, start = "".join(self._texts), 0
        num_sounded_bytes = 0
        for sentence in self._sentences:
            start = text.index(sentence.text, start)
            num_sounded_bytes = self._num_audio_bytes - _num_bytes(sentence.start_ms)
            if sentence is not self._sentences[-1]:
                start += len(sentence.text)
        return Unsaid(text[start:], num_sounded_bytes, is_all=self._done is not None)

    @property
    def is_stopped(self) -> bool:
        """Whether the model is to say no more of it, and has not said that it does not."""
        return self.cancel_reason is not None and self._done is None

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come of it."""
        return self._done is not None and (self._is_spoken or self.cancel_reason is not None)

    def add_text(self, delta: str) -> ReplyText | None:
        """More of its text; what is written after it was cancelled is not told."""
        if self.cancel_reason is not None:
            self._lacks_text = True
            return None
        if self._first_text_at is None:
            self._first_text_at = self._clock()
        self._texts.append(delta)
        return ReplyText(self.turn, delta)

    def add_sound(self, piece: SpokenPiece) -> ReplySound:
        """More of its sound."""
        if self._first_sound_at is None:
            self._first_sound_at = self._clock()
        start_ms = self.audio_ms
        self._num_audio_bytes += len(piece.pcm)
        self.audio_ms = self._num_audio_bytes / PCM16_BYTES / SPEECH_RATE_HZ * 1000
        if piece.is_first_of_sentence:
            sentence_start_ms = start_ms
        else:
            sentence_start_ms = self._sentences.pop().start_ms
        self._sentences.append(SpokenSentence(piece.sentence, sentence_start_ms, self.audio_ms))
        return ReplySound(
            self.turn, piece.pcm, start_ms, piece.sentence, piece.is_first_of_sentence
        )

    def spoken(self, voice_id: str | None) -> None:
        """All of its sound has been told; `voice_id` is the voice that was heard."""
        self._is_spoken = True
        self._voice_id = voice_id

    def text_leaves(self, voice_id: str) -> None:
        """An online voice is asked to say it: whatever comes of that, it has the text."""
        self._online_voice_id = voice_id

    def generated(self, done: TurnDone) -> None:
        """The model is done with it."""
        self._done = done

    def end(self) -> ReplyEnded:
        """It ends, as it is complete."""
        assert self._done is not None, "a reply that the model still generates cannot end"
        self.ended_at = self._clock()
        status = self._status(self._done.status)
        is_cancelled = status is TurnStatus.CANCELLED
        return ReplyEnded(
            turn=self.turn,
            text="".join(self._texts),
            modality=self.modality,
            status=status,
            # The engine stops a reply only when it is told to.
            cancel_reason=(self.cancel_reason or CancelReason.CLIENT) if is_cancelled else None,
            voice_id=self._voice_id,
            online_voice_id=self._online_voice_id,
            reply_ms=_milliseconds(self._arrived_at, self.ended_at),
            first_text_ms=_milliseconds_until(self._first_text_at, self._arrived_at),
            first_sound_ms=_milliseconds_until(self._first_sound_at, self._arrived_at),
            num_tokens=self._done.num_tokens,
        )

    def truncate(self, heard_ms: float) -> ReplyTruncated:
        """Only so much of its sound was heard."""
        return ReplyTruncated(self.turn, heard_ms, self.heard_text(heard_ms))

    def heard_text(self, played_ms: float) -> str:
        """What was heard of its text after so much of its sound: whole words."""
        heard = ""
        for sentence in self._sentences:
            if played_ms >= sentence.end_ms:
                heard += sentence.text
                continue
            share = (played_ms - sentence.start_ms) / (sentence.end_ms - sentence.start_ms)
            if share > 0:
                heard += whole_words(sentence.text, share)
            break
        return heard

    def latency(self, played_after_seconds: float = 0.0) -> ReplyLatency | None:
        """How long it took so far, all by this server's clock; None where it answers no speech.

        Args:
            played_after_seconds: how long after its sound was sent the client began to play it, as
                far as the client has said so.
        """
        decision = self._decision
        if decision.speech_end_seconds is None:
            return None
        waited_seconds = max(0.0, decision.seconds - decision.speech_end_seconds)
        speech_ended_at = self._arrived_at - waited_seconds
        sent_ms = _milliseconds_until(self._first_sound_at, speech_ended_at)
        return ReplyLatency(
            decision_ms=waited_seconds * 1000 + decision.decision_ms,
            first_text_ms=_milliseconds_until(self._first_text_at, speech_ended_at),
            first_sound_ms=None if sent_ms is None else sent_ms + played_after_seconds * 1000,
        )

    def _status(self, generated: TurnStatus) -> TurnStatus:
        is_whole = self._is_spoken and not self._lacks_text
        was_stopped = self.cancel_reason is not None and not is_whole
        return TurnStatus.CANCELLED if was_stopped else generated


def _num_bytes(sound_ms: float) -> int:
    return round(sound_ms / 1000 * SPEECH_RATE_HZ) * PCM16_BYTES


def _milliseconds(start: float, end: float) -> float:
    """Between two times in seconds."""
    return (end - start) * 1000


def _milliseconds_until(end: float | None, start: float) -> float | None:
    return None if end is None else _milliseconds(start, end)


def whole_words(text: str, share: float) -> str:
    """The first part of `text`, about `share` of it; text without spaces is cut anywhere."""
    length = round(len(text) * share)
    if " " not in text.strip():
        return text[:length]
    end = text.rfind(" ", 0, length + 1)
    return text[: max(end, 0)]
