"""The replies of a conversation: asked for, begun, filled, stopped and ended in this one place.

A reply is told when the one before has ended, which may be long after the model's part in it: its
sound takes longer than its text.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from backend.audio import PCM16_BYTES
from backend.config import SPEECH_RATE_HZ
from backend.conversation.events import (
    CancelReason,
    ChunkDecision,
    ConversationEvent,
    ReplyEnded,
    ReplySound,
    ReplyStarted,
    ReplyText,
    ReplyTruncated,
    ReplyWithheld,
)
from backend.conversation.settings import Modality
from backend.events import TurnDone, TurnStarted, TurnStatus
from backend.speech import SpokenPiece

RECENT_REPLIES = 8
"""Replies that a client may still play or truncate after their end."""

Clock = Callable[[], float]
Tell = Callable[[ConversationEvent], None]


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
    """A reply from its beginning to its end. Every time is given to it, by one clock.

    Args:
        arrived_at: when the chunk that it answers was complete, in seconds of the clock.
    """

    def __init__(self, started: ReplyStarted, arrived_at: float) -> None:
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

    def add_text(self, delta: str, now: float) -> ReplyText | None:
        """More of its text; what is written after it was cancelled is not told."""
        if self.cancel_reason is not None:
            self._lacks_text = True
            return None
        if self._first_text_at is None:
            self._first_text_at = now
        self._texts.append(delta)
        return ReplyText(self.turn, delta)

    def add_sound(self, piece: SpokenPiece, now: float) -> ReplySound:
        """More of its sound."""
        if self._first_sound_at is None:
            self._first_sound_at = now
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

    def end(self, now: float) -> ReplyEnded:
        """It ends, as it is complete."""
        assert self._done is not None, "a reply that the model still generates cannot end"
        self.ended_at = now
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
            reply_ms=_milliseconds(self._arrived_at, now),
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


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A reply that the client asked for and that is not decided yet."""

    request_id: str
    since_chunk: int
    """A reply to this chunk or to one after it is the one."""
    modality: Modality | None = None
    """None takes the conversation's."""
    until_chunk: int | None = None
    """A model that has kept silent up to here need not reply; None where it is made to."""
    cancel_reason: CancelReason | None = None
    """Why it is to end as it begins; None where it is still wanted."""


@dataclass(slots=True)
class _OpenReply:
    """A reply that is not over, and what waits to be told for the one before it to end."""

    reply: Reply
    waiting: list[ConversationEvent] = field(default_factory=list)
    after: list[ConversationEvent] = field(default_factory=list)
    """What is told once it has ended."""


@dataclass(frozen=True, slots=True)
class _Starting:
    """The model has decided to speak, and not said more yet."""

    decision: ChunkDecision
    arrived_at: float


class Replies:
    """All replies of one conversation, told in order."""

    def __init__(self, tell: Tell, clock: Clock) -> None:
        self.modality: Modality = "text"
        """Of the replies that begin from now on."""
        self.num_turns = 0
        """Replies that have begun."""
        self._tell = tell
        self._clock = clock
        self._request: PendingRequest | None = None
        self._starting: _Starting | None = None
        self._cancel_reason: CancelReason | None = None
        """Of the reply that is starting."""
        self._open: deque[_OpenReply] = deque()
        self._recent: deque[Reply] = deque(maxlen=RECENT_REPLIES)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tell": None, "_clock": None}

    def take_up(self, tell: Tell, clock: Clock) -> None:
        """Go on with what another process had, by a clock that goes on from its own."""
        self._tell, self._clock = tell, clock

    @property
    def open_replies(self) -> list[Reply]:
        """Those that are not over, in order."""
        return [opened.reply for opened in self._open]

    @property
    def is_replying(self) -> bool:
        """Whether a reply is in progress, or the decision for one has been taken."""
        return bool(self._open) or self._starting is not None

    @property
    def current(self) -> Reply | None:
        """The reply that is being told; None where none is."""
        return self._open[0].reply if self._open else None

    @property
    def newest(self) -> Reply | None:
        """The latest of all."""
        return self._recent[-1] if self._recent else None

    @property
    def newest_turn(self) -> int | None:
        """The latest turn of the model's that is not told to its end; None if all are."""
        if self._starting is not None:
            return self.num_turns
        return self.num_turns - 1 if self._open else None

    @property
    def has_request(self) -> bool:
        """Whether the client has asked for a reply that is not decided yet."""
        return self._request is not None

    @property
    def starting(self) -> ChunkDecision | None:
        """The decision for the reply that begins next; None where none is about to."""
        return self._starting.decision if self._starting is not None else None

    def find(self, turn: int) -> Reply | None:
        """A reply of late; None where it is long ago, or never was."""
        return next((reply for reply in self._recent if reply.turn == turn), None)

    def request(self, request: PendingRequest) -> None:
        """The client asks for a reply."""
        self._request = request

    def withdraw_request(self, reason: CancelReason) -> None:
        """The client wants the reply no more that it has asked for."""
        assert self._request is not None, "there is no request"
        self._request = replace(self._request, cancel_reason=reason)

    def decided(self, decision: ChunkDecision, arrived_at: float) -> None:
        """The model has decided on a chunk, which was complete at `arrived_at`."""
        self._starting = _Starting(decision, arrived_at) if decision.speak else None
        request = self._request
        if request is not None and request.until_chunk == decision.chunk and not decision.speak:
            self._withhold(request)

    def start(self, turn: TurnStarted) -> Reply:
        """The reply begins that was decided last."""
        starting, self._starting = self._starting, None
        assert starting is not None, "a turn started before any decision"
        self.num_turns += 1
        request = self._take_request(turn.chunk)
        started = ReplyStarted(
            turn=turn.turn,
            decision=starting.decision,
            emotion=turn.emotion,
            modality=(request.modality if request else None) or self.modality,
            request_id=request.request_id if request else None,
        )
        reply = Reply(started, starting.arrived_at)
        reply.cancel_reason = self._cancel_reason or (request.cancel_reason if request else None)
        self._cancel_reason = None
        self._recent.append(reply)
        self._open.append(_OpenReply(reply))
        self._tell_of(self._open[-1], started)
        return reply

    def add_text(self, delta: str) -> Reply:
        """The model says more of the reply that began last."""
        opened = self._newest_open()
        self._tell_of(opened, opened.reply.add_text(delta, self._clock()))
        return opened.reply

    def generated(self, done: TurnDone) -> Reply:
        """The model is done with the reply that began last."""
        reply = self._newest_open().reply
        reply.generated(done)
        self._end_complete()
        return reply

    def add_sound(self, reply: Reply, piece: SpokenPiece) -> bool:
        """More of a reply's sound; whether it is told, which that of a cancelled one is not."""
        if reply.cancel_reason is not None:
            return False
        opened = next(opened for opened in self._open if opened.reply is reply)
        self._tell_of(opened, reply.add_sound(piece, self._clock()))
        return True

    def spoken(self, reply: Reply, voice_id: str | None) -> None:
        """All of a reply's sound has been told."""
        if reply.cancel_reason is None:
            reply.spoken(voice_id)
        self._end_complete()

    def cancel(self, reason: CancelReason) -> None:
        """Stop all that is being said; what the model is at ends when it says so."""
        if self._starting is not None:
            self._cancel_reason = reason
        for opened in self._open:
            # Clients cancel too what a voice has stopped: that was first.
            opened.reply.cancel_reason = opened.reply.cancel_reason or reason
        self._end_complete()

    def _withhold(self, request: PendingRequest) -> None:
        self._request = None
        modality = request.modality or self.modality
        withheld = ReplyWithheld(request.request_id, modality, request.cancel_reason)
        if self._open:
            self._open[-1].after.append(withheld)
        else:
            self._tell(withheld)

    def _take_request(self, chunk: int) -> PendingRequest | None:
        """The request that a reply to `chunk` satisfies."""
        request = self._request
        if request is None or chunk < request.since_chunk:
            return None
        self._request = None
        return request

    def _end_complete(self) -> None:
        """End the replies that are complete, in order; what waited for that is told."""
        while self._open and self._open[0].reply.is_complete:
            ended = self._open.popleft()
            following: list[ConversationEvent] = [ended.reply.end(self._clock()), *ended.after]
            if self._open:
                following += self._open[0].waiting
                self._open[0].waiting = []
            for event in following:
                self._tell(event)

    def _tell_of(self, opened: _OpenReply, event: ConversationEvent | None) -> None:
        if event is None:
            return
        if opened is self._open[0]:
            self._tell(event)
        else:
            opened.waiting.append(event)

    def _newest_open(self) -> _OpenReply:
        assert self._open, "text or an end of a turn that was not started"
        return self._open[-1]
