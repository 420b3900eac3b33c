"""Engine events to wire events. Pure but for the injected clock."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from backend.events import (
    ContextRolled,
    Decision,
    Event,
    SessionEnded,
    SessionFailed,
    TextDelta,
    TurnDone,
    TurnStarted,
    TurnStatus,
)
from backend.realtime.server_events import (
    Metadata,
    WireEvent,
    assistant_item,
    new_id,
    response_object,
    status_details,
    user_item,
    wire_event,
)

Clock = Callable[[], float]


class Dialect(Enum):
    """Which vocabulary a client has asked for."""

    REALTIME = auto()
    """OpenAI Realtime, nothing extra."""
    DUPLEX = auto()
    """With the events of the full-duplex dialect: every decision can be seen."""


@dataclass(frozen=True, slots=True)
class HeardAudio:
    """A chunk for the engine: where it ends in the client's audio, and when it came.

    `requested` is the metadata of the reply that the client asked for here; None where it did not.
    """

    seconds: float
    arrived_at: float
    requested: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TimedDecision:
    """A decision with the chunk it answered."""

    decision: Decision
    heard: HeardAudio
    decided_at: float

    def metadata(self) -> Metadata:
        """The numbers that clients may show."""
        return {
            "chunk": self.decision.chunk,
            "seconds": round(self.heard.seconds, 3),
            "speak_probability": round(self.decision.speak_probability, 4),
            "milliseconds": round(self.decision.milliseconds, 2),
            "decision_ms": _milliseconds(self.heard.arrived_at, self.decided_at),
        }


@dataclass(slots=True)
class Reply:
    """The response in progress."""

    answers: TimedDecision
    metadata: Metadata
    response_id: str = field(default_factory=lambda: new_id("resp"))
    item_id: str = field(default_factory=lambda: new_id("item"))
    first_text_at: float | None = None

    def part_ids(self) -> dict[str, str | int]:
        """The fields that name this reply's only content part."""
        return {
            "response_id": self.response_id,
            "item_id": self.item_id,
            "output_index": 0,
            "content_index": 0,
        }


class Translator:
    """One conversation as its client sees it."""

    def __init__(self, dialect: Dialect, session_id: str, clock: Clock) -> None:
        self._dialect = dialect
        self._session_id = session_id
        self._clock = clock
        self._unanswered: deque[HeardAudio] = deque()
        self._last: TimedDecision | None = None
        self._reply: Reply | None = None
        self._last_item_id: str | None = None
        self._has_uncommitted_audio = False
        self._num_turns = 0

    @property
    def is_replying(self) -> bool:
        """Whether a response is in progress, or the decision for one has been taken."""
        return self._reply is not None or (self._last is not None and self._last.decision.speak)

    @property
    def response_id(self) -> str | None:
        """The response in progress; None before its first event and after its last."""
        return self._reply.response_id if self._reply else None

    @property
    def has_request(self) -> bool:
        """Whether the client has asked for a response that is not decided yet."""
        return any(heard.requested is not None for heard in self._unanswered)

    @property
    def has_uncommitted_audio(self) -> bool:
        """Whether audio has come in since the last user item."""
        return self._has_uncommitted_audio

    def audio_arrived(self) -> None:
        """The client sent audio."""
        self._has_uncommitted_audio = True

    def chunk_arrived(self, seconds: float, requested: dict[str, str] | None = None) -> None:
        """A chunk is complete and will be fed; it ends at `seconds` of the client's audio."""
        self._unanswered.append(HeardAudio(seconds, self._clock(), requested))

    def commit(self) -> Iterator[WireEvent]:
        """What has been heard since the last item becomes the user's next item."""
        self._has_uncommitted_audio = False
        item = user_item(new_id("item"))
        previous = self._last_item_id
        self._last_item_id = item["id"]
        yield wire_event(
            "input_audio_buffer.committed", item_id=item["id"], previous_item_id=previous
        )
        yield wire_event("conversation.item.added", item=item, previous_item_id=previous)
        yield wire_event("conversation.item.done", item=item, previous_item_id=previous)

    def translate(self, event: Event) -> Iterator[WireEvent]:
        """The wire events that tell the client of an engine event; failures are the caller's."""
        match event:
            case Decision():
                yield from self._decision(event)
            case TurnStarted():
                yield from self._turn_started(event)
            case TextDelta():
                yield from self._text_delta(event)
            case TurnDone():
                yield from self._turn_done(event)
            case ContextRolled():
                yield from self._context_rolled(event)
            case SessionFailed() | SessionEnded():
                return

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
        self._num_turns += 1
        if self._has_uncommitted_audio:
            yield from self.commit()
        metadata = (self._last.heard.requested or {}) | self._last.metadata()
        if started.emotion is not None:
            metadata["emotion"] = started.emotion.value
        reply = self._reply = Reply(self._last, metadata)
        item = assistant_item(reply.item_id, "in_progress", None)
        previous, self._last_item_id = self._last_item_id, reply.item_id
        yield wire_event(
            "response.created",
            response=response_object(reply.response_id, "in_progress", metadata, []),
        )
        if self._dialect is Dialect.DUPLEX:
            yield wire_event(
                "response.speak",
                session_id=self._session_id,
                epoch=self._num_turns,
                metadata=metadata,
                **reply.part_ids(),
            )
        yield wire_event(
            "response.output_item.added",
            response_id=reply.response_id,
            output_index=0,
            item=item,
        )
        yield wire_event("conversation.item.added", item=item, previous_item_id=previous)
        yield wire_event(
            "response.content_part.added", part={"type": "text", "text": ""}, **reply.part_ids()
        )

    def _text_delta(self, text: TextDelta) -> Iterator[WireEvent]:
        reply = self._current_reply()
        if reply.first_text_at is None:
            reply.first_text_at = self._clock()
        yield wire_event("response.output_text.delta", delta=text.delta, **reply.part_ids())

    def _turn_done(self, done: TurnDone) -> Iterator[WireEvent]:
        reply = self._current_reply()
        self._reply = self._last = None
        item_status = "completed" if done.status is TurnStatus.COMPLETED else "incomplete"
        item = assistant_item(reply.item_id, item_status, done.text)
        yield wire_event("response.output_text.done", text=done.text, **reply.part_ids())
        yield wire_event(
            "response.content_part.done",
            part={"type": "text", "text": done.text},
            **reply.part_ids(),
        )
        yield wire_event(
            "response.output_item.done",
            response_id=reply.response_id,
            output_index=0,
            item=item,
        )
        yield wire_event("conversation.item.done", item=item)
        yield wire_event(
            "response.done",
            response=response_object(
                reply.response_id,
                done.status.value,
                reply.metadata | self._timing(reply),
                [item],
                status_details(done.status),
            ),
        )

    def activity_resumed(self) -> WireEvent:
        """The notice that the conversation would end is taken back."""
        return self._turn_event("activity_resumed")

    def _context_rolled(self, rolled: ContextRolled) -> Iterator[WireEvent]:
        if self._dialect is Dialect.DUPLEX:
            yield self._turn_event(
                "context_rolled",
                positions_before=rolled.positions_before,
                positions_after=rolled.positions_after,
            )

    def _turn_event(self, event: str, **metadata: int) -> WireEvent:
        return wire_event(
            "turn.event",
            session_id=self._session_id,
            epoch=self._num_turns,
            event=event,
            turn_state="speaking" if self.is_replying else "listening",
            metadata=metadata,
        )

    def _timing(self, reply: Reply) -> Metadata:
        """Counted from when the answered chunk was complete here."""
        arrived_at = reply.answers.heard.arrived_at
        timing = {"reply_ms": _milliseconds(arrived_at, self._clock())}
        if reply.first_text_at is not None:
            timing["latency_ms"] = _milliseconds(arrived_at, reply.first_text_at)
        return timing

    def _current_reply(self) -> Reply:
        assert self._reply is not None, "text or an end of a turn that was not started"
        return self._reply


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)
