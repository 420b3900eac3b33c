"""Engine events to wire events: one reply at a time. Pure but for the injected clock."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from backend.conversation.reply import CancelReason, Clock, HeardAudio, Reply, TimedDecision
from backend.events import (
    ContextRolled,
    Decision,
    Event,
    SessionEnded,
    SessionFailed,
    TextDelta,
    TurnDone,
    TurnStarted,
)
from backend.speech import SpokenPiece
from backend.wires.realtime.client_messages import Modality
from backend.wires.realtime.dialect import Dialect
from backend.wires.realtime.items import Items
from backend.wires.realtime.server_messages import (
    Item,
    Metadata,
    WireEvent,
    new_id,
    user_audio_item,
    wire_event,
)

RECENT_REPLIES = 8
"""Replies that a client may still play or truncate after their last event."""


@dataclass(frozen=True, slots=True)
class WantedReply:
    """A reply that the client asked for. Chunks count from 0, as the engine's."""

    since_chunk: int
    """A reply to this chunk or to one after it is the one."""
    metadata: dict[str, str] = field(default_factory=dict)
    modality: Modality | None = None
    """None takes the session's."""
    cancel_reason: CancelReason | None = None
    """Why it is to end as it begins; None where it is still wanted."""


@dataclass(slots=True)
class OpenReply:
    """A reply that is not over, and its events that wait for the one before it to end."""

    reply: Reply
    waiting: list[WireEvent] = field(default_factory=list)


class Translator:
    """One conversation as its client sees it.

    A reply's events begin when those of the one before have ended, which may be long after the
    model's part in it: its sound takes longer than its text. Decisions to listen do not wait.
    """

    def __init__(self, dialect: Dialect, session_id: str, clock: Clock) -> None:
        self.modality: Modality = "text"
        self.items = Items()
        self._dialect = dialect
        self._session_id = session_id
        self._clock = clock
        self._unanswered: deque[HeardAudio] = deque()
        self._last: TimedDecision | None = None
        self._wanted: WantedReply | None = None
        self._open: deque[OpenReply] = deque()
        self._recent: deque[Reply] = deque(maxlen=RECENT_REPLIES)
        self._has_uncommitted_audio = False
        self._num_chunks = 0
        self._num_turns = 0
        self._cancel_reason: CancelReason | None = None
        self._next_user_item_id = new_id("item")
        self._is_speech_told = False

    @property
    def is_replying(self) -> bool:
        """Whether a response is in progress, or the decision for one has been taken."""
        return bool(self._open) or self._is_starting

    @property
    def response_id(self) -> str | None:
        """The response in progress; None before its first event and after its last."""
        return self._open[0].reply.response_id if self._open else None

    @property
    def epoch(self) -> int:
        """How many turns have begun."""
        return self._num_turns

    @property
    def newest_turn(self) -> int | None:
        """The latest turn of the model's, from 0, that is not told to its end; None if all are."""
        if self._is_starting:
            return self._num_turns
        return self._num_turns - 1 if self._open else None

    @property
    def has_request(self) -> bool:
        """Whether the client has asked for a response that is not decided yet."""
        return self._wanted is not None

    @property
    def has_uncommitted_audio(self) -> bool:
        """Whether audio has come in since the last user item."""
        return self._has_uncommitted_audio

    @property
    def num_chunks(self) -> int:
        """Chunks that have come; the next one has this number."""
        return self._num_chunks

    @property
    def newest_reply(self) -> Reply | None:
        """The latest of all."""
        return self._recent[-1] if self._recent else None

    def find_reply(self, response_id: str | None, item_id: str | None) -> Reply | None:
        """A reply of late by one of its ids; without any, the latest."""
        if response_id is None and item_id is None:
            return self.newest_reply
        return next((r for r in self._recent if r.response_id == response_id), None) or next(
            (r for r in self._recent if r.item_id == item_id), None
        )

    def audio_arrived(self) -> None:
        """The client sent audio."""
        self._has_uncommitted_audio = True

    def chunk_arrived(
        self, seconds: float, speech_end_seconds: float | None = None, is_added: bool = False
    ) -> None:
        """A chunk is complete and will be fed; it ends at `seconds` of the client's audio."""
        self._num_chunks += 1
        heard = HeardAudio(seconds, self._clock(), speech_end_seconds, is_added)
        self._unanswered.append(heard)

    def reply_wanted(self, wanted: WantedReply) -> None:
        """The client asked for a reply; none is in progress."""
        self._wanted = wanted

    def cancel_request(self, reason: CancelReason) -> None:
        """The client wants the reply no more that it has asked for and that is not decided yet."""
        assert self._wanted is not None, "there is no request"
        self._wanted = replace(self._wanted, cancel_reason=reason)

    def speech_started(self, onset_seconds: float) -> list[WireEvent]:
        """Somebody speaks, since then."""
        if self._is_speech_told:
            return []
        self._is_speech_told = True
        return [
            wire_event(
                "input_audio_buffer.speech_started",
                item_id=self._next_user_item_id,
                audio_start_ms=round(onset_seconds * 1000),
            )
        ]

    def speech_stopped(self, end_seconds: float) -> list[WireEvent]:
        """Nobody speaks any more, since then; said once for each start."""
        if not self._is_speech_told:
            return []
        self._is_speech_told = False
        return [
            wire_event(
                "input_audio_buffer.speech_stopped",
                item_id=self._next_user_item_id,
                audio_end_ms=round(end_seconds * 1000),
            )
        ]

    def commit(self) -> list[WireEvent]:
        """What has been heard since the last item becomes the user's next item."""
        self._has_uncommitted_audio = False
        item = user_audio_item(self._next_user_item_id)
        self._next_user_item_id = new_id("item")
        previous = self.items.add(item)
        return [
            wire_event(
                "input_audio_buffer.committed", item_id=item["id"], previous_item_id=previous
            ),
            *_added(item, previous),
        ]

    def add_item(self, item: Item, has_older_names: bool) -> list[WireEvent]:
        """The client's own item becomes the next one."""
        previous = self.items.add(item)
        added, done = _added(item, previous)
        created = wire_event("conversation.item.created", item=item, previous_item_id=previous)
        return [added, created, done] if has_older_names else [added, done]

    def translate(self, event: Event) -> list[WireEvent]:
        """The wire events that tell the client of an engine event; failures are the caller's."""
        match event:
            case Decision():
                return list(self._decision(event))
            case TurnStarted():
                return list(self._turn_started(event))
            case TextDelta():
                newest = self._newest()
                return list(self._tell(newest, newest.reply.add_text(event.delta)))
            case TurnDone():
                self._newest().reply.generated(event)
                return list(self._end_complete())
            case ContextRolled():
                return list(self._context_rolled(event))
            case SessionFailed() | SessionEnded():
                return []

    def sound(self, reply: Reply, piece: SpokenPiece) -> list[WireEvent]:
        """More of a reply's sound; nothing of one that was cancelled."""
        if reply.cancel_reason is not None:
            return []
        opened = next(opened for opened in self._open if opened.reply is reply)
        return list(self._tell(opened, reply.add_sound(piece)))

    def spoken(self, reply: Reply, voice_id: str | None) -> list[WireEvent]:
        """All of a reply's sound has been told."""
        if reply.cancel_reason is None:
            reply.spoken(voice_id)
        return list(self._end_complete())

    def cancel(self, reason: CancelReason) -> list[WireEvent]:
        """Stop all that is being said; what the model is at ends when it says so."""
        if self._is_starting:
            self._cancel_reason = reason
        for opened in self._open:
            # Clients cancel too what a voice has stopped: that was first.
            opened.reply.cancel_reason = opened.reply.cancel_reason or reason
        return list(self._end_complete())

    def activity_resumed(self) -> WireEvent:
        """The notice that the conversation will end is taken back."""
        return self._turn_event("activity_resumed", {})

    @property
    def _is_starting(self) -> bool:
        """Whether the model has decided to speak, and not said more yet."""
        return self._last is not None and self._last.decision.speak

    def _decision(self, decision: Decision) -> Iterator[WireEvent]:
        self._last = TimedDecision(decision, self._unanswered.popleft(), self._clock())
        if decision.speak or self._dialect is Dialect.REALTIME:
            return
        yield wire_event(
            "response.listen",
            session_id=self._session_id,
            epoch=self._num_turns,
            response={
                "object": "realtime.response",
                "status": "listening",
                "metadata": self._last.metadata(),
            },
        )

    def _turn_started(self, started: TurnStarted) -> Iterator[WireEvent]:
        assert self._last is not None, "a turn started before any decision"
        answers, self._last = self._last, None
        self._num_turns += 1
        wanted = self._take_wanted(started.chunk)
        metadata: Metadata = wanted.metadata | answers.metadata()
        if started.emotion is not None:
            metadata["emotion"] = started.emotion.value
        if answers.heard.speech_end_seconds is not None:
            metadata["speech_end_seconds"] = round(answers.heard.speech_end_seconds, 3)
        modality = wanted.modality or self.modality
        reply = Reply(started.turn, answers, metadata, modality, self._dialect, self._clock)
        reply.cancel_reason = self._cancel_reason or wanted.cancel_reason
        self._cancel_reason = None
        self._recent.append(reply)
        opened = OpenReply(reply)
        self._open.append(opened)
        if not answers.heard.is_added:
            yield from self._end_utterance(answers.heard)
        previous = self.items.add(reply.item("in_progress", None))
        opening = reply.opening(self._session_id, self._num_turns, previous)
        yield from self._tell(opened, opening)

    def _end_utterance(self, heard: HeardAudio) -> Iterator[WireEvent]:
        """Clients know this order: the user's part ends before the reply to it begins."""
        yield from self.speech_stopped(heard.speech_end_seconds or heard.seconds)
        if self._has_uncommitted_audio:
            yield from self.commit()

    def _take_wanted(self, chunk: int) -> WantedReply:
        """The request that a reply to `chunk` satisfies, or one that asks for nothing."""
        wanted = self._wanted
        if wanted is None or chunk < wanted.since_chunk:
            return WantedReply(chunk)
        self._wanted = None
        return wanted

    def _end_complete(self) -> Iterator[WireEvent]:
        """End the replies that are complete, in order; the next one's events follow."""
        while self._open and self._open[0].reply.is_complete:
            reply = self._open.popleft().reply
            self.items.change(reply.lasting_item())
            yield from reply.closing()
            if self._open:
                yield from self._open[0].waiting
                self._open[0].waiting.clear()

    def _tell(self, opened: OpenReply, events: Iterable[WireEvent]) -> Iterator[WireEvent]:
        if opened is self._open[0]:
            yield from events
        else:
            opened.waiting.extend(events)

    def _newest(self) -> OpenReply:
        assert self._open, "text or an end of a turn that was not started"
        return self._open[-1]

    def _context_rolled(self, rolled: ContextRolled) -> Iterator[WireEvent]:
        if self._dialect is Dialect.DUPLEX:
            yield self._turn_event(
                "context_rolled",
                {
                    "positions_before": rolled.positions_before,
                    "positions_after": rolled.positions_after,
                },
            )

    def _turn_event(self, event: str, metadata: Metadata) -> WireEvent:
        return wire_event(
            "turn.event",
            session_id=self._session_id,
            epoch=self._num_turns,
            event=event,
            turn_state="speaking" if self.is_replying else "listening",
            metadata=metadata,
        )


def _added(item: Item, previous_item_id: str | None) -> tuple[WireEvent, WireEvent]:
    return (
        wire_event("conversation.item.added", item=item, previous_item_id=previous_item_id),
        wire_event("conversation.item.done", item=item, previous_item_id=previous_item_id),
    )
