"""The replies of a conversation: asked for, begun, filled, stopped and ended in this one place.

A reply is told when the one before has ended, which may be long after the model's part in it: its
sound takes longer than its text.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from backend.conversation.events import (
    CancelReason,
    ChunkDecision,
    ConversationEvent,
    ReplyStarted,
)
from backend.conversation.reply import Clock, Reply
from backend.conversation.settings import Modality
from backend.events import TurnDone, TurnStarted
from backend.speech import SpokenPiece

RECENT_REPLIES = 8
"""Replies that a client may still play or truncate after their end."""

Tell = Callable[[ConversationEvent], None]


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A reply that the client asked for and that is not decided yet."""

    request_id: str
    since_chunk: int
    """A reply to this chunk or to one after it is the one."""
    modality: Modality | None = None
    """None takes the conversation's."""
    cancel_reason: CancelReason | None = None
    """Why it is to end as it begins; None where it is still wanted."""


@dataclass(slots=True)
class _OpenReply:
    """A reply that is not over, and what waits to be told for the one before it to end."""

    reply: Reply
    waiting: list[ConversationEvent] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Starting:
    """The model has decided to speak, and not said more yet."""

    decision: ChunkDecision
    arrived_at: float


@dataclass(frozen=True, slots=True)
class RepliesState:
    """What another process needs to go on with a conversation's replies."""

    now: float
    """In seconds of the clock of who has them."""
    num_turns: int
    request: PendingRequest | None
    starting: _Starting | None
    cancel_reason: CancelReason | None
    open: deque[_OpenReply]
    recent: deque[Reply]


class Replies:
    """All replies of one conversation.

    Args:
        tell: is told what happens, in order.
        clock: for what it takes.
    """

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

    def state(self, now: float) -> "RepliesState":
        """All of it, at `now` of the clock."""
        return RepliesState(
            now,
            self.num_turns,
            self._request,
            self._starting,
            self._cancel_reason,
            self._open,
            self._recent,
        )

    def take_up(self, state: "RepliesState") -> None:
        """Go on from a state of another process's."""
        later_seconds = self._clock() - state.now
        self.num_turns = state.num_turns
        self._request = state.request
        self._cancel_reason = state.cancel_reason
        self._open, self._recent = state.open, state.recent
        if (starting := state.starting) is not None:
            self._starting = replace(starting, arrived_at=starting.arrived_at + later_seconds)
        # One that is open is among the recent ones, unless many are.
        for reply in {*self.open_replies, *self._recent}:
            reply.take_up(self._clock, later_seconds)

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
    def starting(self) -> ChunkDecision:
        """The decision for the reply that begins next."""
        assert self._starting is not None, "a turn started before any decision"
        return self._starting.decision

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
        reply = Reply(started, starting.arrived_at, self._clock)
        reply.cancel_reason = self._cancel_reason or (request.cancel_reason if request else None)
        self._cancel_reason = None
        self._recent.append(reply)
        self._open.append(_OpenReply(reply))
        self._tell_of(self._open[-1], started)
        return reply

    def add_text(self, delta: str) -> Reply:
        """The model says more of the reply that began last."""
        opened = self._newest_open()
        self._tell_of(opened, opened.reply.add_text(delta))
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
        self._tell_of(opened, reply.add_sound(piece))
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
            self._tell(self._open.popleft().reply.end())
            if self._open:
                waiting, self._open[0].waiting = self._open[0].waiting, []
                for event in waiting:
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
