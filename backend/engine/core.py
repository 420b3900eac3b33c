"""The engine's core: synchronous, one step at a time, no threads.

A step is: choose who is in it, run the model once for all of them, and tell what came of it.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.config import (
    CHUNK_SAMPLES,
    FEATURES_PER_CHUNK,
    LISTENING_POSITIONS,
    PACE,
    EngineConfig,
    SamplingConfig,
    SessionSettings,
)
from backend.counts import EngineCounts, StepKind
from backend.engine.context import HeardChunk, Refill, RollRule, chunks_to_keep
from backend.engine.model_runner import Choice, ModelRunner, Step, StepOutcome, StepRow
from backend.engine.scheduler import Batch, Scheduler, StepLimits
from backend.engine.session import (
    Detokenizer,
    Past,
    PastChunk,
    PendingChunk,
    ReplyRequest,
    Session,
    Turn,
)
from backend.engine.static_runner import LONG_ROWS, MAX_PIECES, runner_for
from backend.errors import SettingsError
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
from backend.model.checkpoint import Checkpoint
from backend.model.device import needing_memory
from backend.model.word_head import HeardWords
from backend.protocol import (
    Effect,
    Emotion,
    advance,
    kind_of,
    listening_tokens,
    online_prefix,
    speak_threshold,
)
from backend.trace import Cause, Trace, TracedDecision, TracedToken

if TYPE_CHECKING:
    from torch import Tensor

SessionEvent = tuple[Session, Event]

MIN_POSITIONS = 256
"""The smallest context in which a conversation makes sense, and in which a roll finds room."""
ROLL_SHARE = 16
"""When this part of a context is left, what will stay of it begins to be computed anew."""
LEAST_ROLL_MARGIN = 4 * LISTENING_POSITIONS
CPU_LIMITS = StepLimits(listening=8, pieces=4, rows=4, spares=8)
_WARMING_POSITIONS = LISTENING_POSITIONS + 2
"""To hear a chunk, and to say two tokens."""
WORDLESS_TOKENS = 16
"""More than any reply has before its first character."""
BROKEN_NUMBERS = "the model's numbers broke down in this conversation; start a new one"


MakeRunner = Callable[[Checkpoint, int, int], ModelRunner]
"""What runs a checkpoint, with so many slots of so many positions."""


class EngineCore:
    """Sessions, their slots and the model that serves them. Not thread-safe.

    Args:
        checkpoint: the model.
        config: number of slots and size of a context.
        clock: seconds, for the cost of a chunk.
        runner: makes what runs the model.
        roll_rule: for contexts that fill up.

    Raises:
        SettingsError: the context is too small, or too small for the checkpoint's own prompt; or
            the device has no room for so many contexts of this size.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EngineConfig,
        clock: Callable[[], float] = time.perf_counter,
        runner: MakeRunner = runner_for,
        roll_rule: RollRule = RollRule.AHEAD,
    ) -> None:
        self.checkpoint = checkpoint
        self._roll_rule = roll_rule
        self.max_positions = min(
            config.max_positions or checkpoint.max_positions, checkpoint.max_positions
        )
        if self.max_positions < MIN_POSITIONS:
            raise SettingsError(
                f"a context needs at least {MIN_POSITIONS} positions, not {self.max_positions}"
            )
        self._prefix(SessionSettings())
        self._num_threads = config.num_threads
        self._no_room = SettingsError(
            f"the memory of {checkpoint.device} has no room for {config.num_slots} conversations "
            f"of {self.max_positions} positions: take fewer or shorter ones (--sessions, "
            "--max-positions)"
        )
        with needing_memory(self._no_room):
            limits = _limits(config.num_slots, checkpoint.device.type == "cpu")
            num_slots = config.num_slots + limits.spares
            self._make_runner: Callable[[Checkpoint], ModelRunner] = lambda model: runner(
                model, num_slots, self.max_positions
            )
            self._runner = self._make_runner(checkpoint)
        self._scheduler = Scheduler(config.num_slots, limits)
        self._batch: Batch | None = None
        """Of the step that is being taken, or that broke."""
        self.counts = EngineCounts()
        self._clock = clock
        self._session_ids = itertools.count()

    @property
    def sessions(self) -> list[Session]:
        """The open sessions."""
        return self._scheduler.sessions

    def limit_threads(self) -> None:
        """Called by the thread that will step, before its first step."""
        self._runner.limit_threads(self._num_threads)

    def warm_up(self) -> None:
        """Take a step of each kind: on a GPU the first ones load its kernels, for seconds.

        Raises:
            SettingsError: the device has no room for what a step needs.
            SessionLimitError: every slot is taken.
        """
        with needing_memory(self._no_room):
            self._runner.warm_up()
            session = self.open(SessionSettings())
            try:
                prompt_end = session.num_positions
                self.request_reply(session)
                self.hear(session, np.zeros(CHUNK_SAMPLES, np.float32))
                while session.num_positions < prompt_end + _WARMING_POSITIONS and self.has_work():
                    list(self.step())
            finally:
                self.close(session)

    def is_usable(self) -> bool:
        """Whether the device can take another step."""
        return self._runner.is_usable()

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self._scheduler.has_work()

    def open(self, settings: SessionSettings, trace: Trace | None = None) -> Session:
        """Start a conversation; `trace` is told of all that happens in it.

        Raises:
            SessionLimitError: every slot is taken.
            SettingsError: the system prompt takes up more than a quarter of the context.
        """
        prefix = self._prefix(settings)
        slot = self._scheduler.free_slot()
        word_head = self.checkpoint.word_head
        session = Session(
            session_id=next(self._session_ids),
            slot=slot,
            settings=settings,
            sampling=self._sampling(settings),
            max_reply_tokens=self._max_reply_tokens(settings),
            prefix=prefix,
            generator=_generator(settings.seed),
            words=None if word_head is None else HeardWords(word_head),
            trace=trace,
        )
        self._runner.forget(slot)
        self._refill(session)
        self._scheduler.add(session)
        return session

    def change_settings(self, session: Session, settings: SessionSettings) -> None:
        """Let what follows be sampled by `settings`; another seed begins its draws anew.

        With another prompt, all that was heard and said is taken in again under it, and the session
        goes on when that is done.

        Raises:
            SettingsError: the system prompt takes up more than a quarter of the context.
        """
        prefix = self._prefix(settings)
        if settings.seed != session.settings.seed:
            session.generator = _generator(settings.seed)
        session.settings = settings
        session.sampling = self._sampling(settings)
        session.max_reply_tokens = self._max_reply_tokens(settings)
        if prefix != session.prefix:
            session.prefix = prefix
            context_positions = sum(chunk.num_positions for chunk in session.context)
            if len(prefix) + context_positions + self._roll_margin > self.max_positions:
                session.context = self._shortened(session)
            self._refill(session)
        if session.trace is not None:
            stated = replace(settings, system_prompt=self._prompt(settings))
            session.trace.settings_changed(stated, session.sampling, session.max_reply_tokens)

    def recall(self, session: Session, chunks: Sequence[PastChunk]) -> "Tensor":
        """What a session heard elsewhere, in order; nothing was fed to it yet.

        Returns features `[rows, 10, width]`.
        """
        return self._runner.recall(session.slot, chunks)

    def take_up(self, session: Session, past: Past, features: Iterable["Tensor"]) -> None:
        """Have a session go on as another engine's would; `features` are of the past's chunks."""
        for chunk, heard in zip(past.chunks, features, strict=True):
            if chunk.tokens is not None:
                session.context.append(HeardChunk(heard, list(chunk.tokens), chunk.number))
            session.num_chunks_heard = chunk.number + 1
        session.num_turns = past.num_turns
        session.answered_chunk = past.answered_chunk
        session.generator.random(past.num_draws)
        if session.words is not None and past.chunks:
            session.words.go_on()
        if session.context:
            self._take_up_turn(session, session.context[-1])
            self._refill(session)

    def _take_up_turn(self, session: Session, newest: HeardChunk) -> None:
        control = self.checkpoint.control_tokens
        decision, *said = newest.tokens
        session.state, effect = advance(session.state, kind_of(decision, control))
        if effect is Effect.OPEN_TURN:
            detokenizer = Detokenizer(self.checkpoint.tokenizer)
            turn = Turn(session.num_turns - 1, newest.number, detokenizer, is_announced=bool(said))
            for token in said:
                self._follow(session, turn, token)
            session.turn = turn if session.is_speaking else None

    def close(self, session: Session) -> None:
        """End a conversation and free its slot."""
        self._scheduler.remove(session)

    def hear(self, session: Session, chunk: npt.NDArray[np.float32]) -> None:
        """Queue a chunk `[6400]` of the session's audio."""
        heard = chunk if session.trace is None else session.trace.hears(chunk)
        due_at = max(self._clock(), session.next_due_at)
        session.next_due_at = due_at + PACE
        session.pending_chunks.append(PendingChunk(heard, due_at))

    def finish(self, session: Session) -> None:
        """Note that no more chunks come; the session ends when all is heard and said."""
        session.is_finished = True

    def interrupt(self, session: Session, turn: int | None = None) -> None:
        """Let the reply in progress end at its next token.

        Args:
            session: who replies.
            turn: the reply that is meant; where it is over, or another is in progress, nothing
                happens. None means whichever is in progress.
        """
        if session.turn is not None and turn in (None, session.turn.number):
            session.is_interrupted = True

    def request_reply(self, session: Session, since_chunk: int | None = None) -> None:
        """Have the next chunk that is queued answered, whatever the model decides.

        Args:
            session: who replies.
            since_chunk: a reply that the model starts or has started itself on this chunk or on
                one after it will do. None asks for the next chunk's reply alone.
        """
        at_chunk = session.num_chunks_heard + len(session.pending_chunks)
        since_chunk = at_chunk if since_chunk is None else since_chunk
        if session.answered_chunk is None or session.answered_chunk < since_chunk:
            session.request = ReplyRequest(since_chunk, at_chunk)

    def step(self) -> Iterator[SessionEvent]:
        """Let the sessions that can take a step take it; yields what happens, in order."""
        began = self._clock()
        if self._roll_rule is RollRule.WHEN_FULL:
            yield from self._make_room(s for s in self.sessions if s.can_listen or s.can_speak)
        batch = self._batch = self._scheduler.schedule()
        outcome = self._runner.run(_step_of(batch))
        seconds = self._clock() - began
        self._count(batch, seconds)
        self._go_on_refilled(batch)
        yield from self._listened(batch, outcome, seconds * 1000)
        yield from self._spoken(batch, outcome)
        if self._roll_rule is RollRule.AHEAD:
            heard_or_said = batch.listening + batch.speaking
            yield from self._make_room(s for s in heard_or_said if not s.is_ended)
        yield from self._end(batch)
        # Those that are closed are not to be held until the next step.
        self._batch = None

    def _count(self, batch: Batch, seconds: float) -> None:
        self.counts.num_tokens += len(batch.speaking)
        if batch.listening:
            self.counts.steps[StepKind.LISTENING].note(seconds)
        elif batch.speaking:
            self.counts.steps[StepKind.SPEAKING].note(seconds)
        elif batch.pieces:
            self.counts.steps[StepKind.REFILLING].note(seconds)

    def fail_active(self) -> Iterator[SessionEvent]:
        """After a step that broke: end every conversation that was in it."""
        message = "the model failed on this conversation; start a new one"
        for session in self._batch.members if self._batch is not None else []:
            if not session.is_ended:
                yield session, _fail(session, message)
        self._batch = None

    def fail_all(self, message: str) -> Iterator[SessionEvent]:
        """End every conversation, as no step will be taken any more."""
        for session in self.sessions:
            if not session.is_ended:
                yield session, replace(_fail(session, message), of_engine=True)

    def runner_of(self, checkpoint: Checkpoint) -> ModelRunner:
        """What runs another checkpoint of the same kind; may be called on any thread.

        Raises:
            SettingsError: its context is not as long, or the device has no room for it.
        """
        if checkpoint.max_positions < self.max_positions:
            raise SettingsError(
                f"{checkpoint.name} has a shorter context: start the server with it"
            )
        with needing_memory(self._no_room):
            return self._make_runner(checkpoint)

    def change_model(
        self, checkpoint: Checkpoint, runner: ModelRunner, message: str
    ) -> Iterator[SessionEvent]:
        """Go on with another checkpoint. Every conversation ends: it is another one's.

        Args:
            checkpoint: the other one.
            runner: its `runner_of`.
            message: for those who converse.
        """
        for session in self.sessions:
            if not session.is_ended:
                yield session, _fail(session, message)
        self.checkpoint, self._runner = checkpoint, runner
        self.limit_threads()

    def _sampling(self, settings: SessionSettings) -> SamplingConfig:
        return settings.sampling or self.checkpoint.sampling

    def _max_reply_tokens(self, settings: SessionSettings) -> int:
        # So that a roll always finds room for the reply in progress.
        return min(settings.max_reply_tokens, self.max_positions // 4)

    def _prompt(self, settings: SessionSettings) -> str:
        own = self.checkpoint.system_prompt
        return own if settings.system_prompt is None else settings.system_prompt

    def _prefix(self, settings: SessionSettings) -> list[int]:
        prompt = self._prompt(settings)
        prompt_tokens = self.checkpoint.tokenizer.encode(prompt, add_special_tokens=False).ids
        prefix = online_prefix(self.checkpoint.control_tokens, prompt_tokens)
        if len(prefix) > self.max_positions // 4:
            raise SettingsError(
                f"the system prompt is too long: {len(prompt_tokens)} tokens, at most "
                f"{self.max_positions // 4 - (len(prefix) - len(prompt_tokens))} fit"
            )
        return prefix

    def _refill(self, session: Session) -> None:
        """Have the session's context computed from its first position before it goes on."""
        self._scheduler.take_spare(session)
        refill = self._refill_of(session, list(session.context))
        refill.is_awaited = True
        session.refill = refill
        session.num_positions = refill.num_positions_left

    def _refill_of(self, session: Session, chunks: list[HeardChunk]) -> Refill:
        tokens = listening_tokens(self.checkpoint.control_tokens, session.last_token)
        # But for the token before it, which is there already.
        return Refill(session.prefix, chunks, chunk_tokens=tokens[1:])

    @property
    def _roll_margin(self) -> int:
        if self._roll_rule is RollRule.WHEN_FULL:
            return 0
        return max(self.max_positions // ROLL_SHARE, LEAST_ROLL_MARGIN)

    def _shortened(self, session: Session) -> list[HeardChunk]:
        """The context without its oldest part; the chunk that is being answered stays."""
        room = self.max_positions // 2 - self._roll_margin - len(session.prefix)
        kept = chunks_to_keep(session.context, max(room, session.context[-1].num_positions))
        return [session.context[index] for index in kept]

    def _make_room(self, sessions: Iterable[Session]) -> Iterator[SessionEvent]:
        """Roll contexts that are full.

        What stays is chosen a little earlier, so that most of it has been computed by then. When
        that is depends on nothing but what was heard and said: so a recording rolls as it did.
        """
        for session in sessions:
            left = self.max_positions - session.num_positions
            needed = 1 if session.is_speaking else LISTENING_POSITIONS
            if session.refill is None and left < max(self._roll_margin, needed):
                session.refill = self._refill_of(session, self._shortened(session))
            refill = session.refill
            if refill is None or left >= needed:
                continue
            rolled = ContextRolled(
                session.num_positions,
                refill.num_positions + refill.num_positions_left,
                tuple(chunk.number for chunk in refill.chunks),
            )
            refill.is_awaited = True
            session.context = refill.chunks
            session.num_positions = rolled.positions_after
            if session.trace is not None:
                session.trace.rolled(rolled)
            yield session, rolled

    def _go_on_refilled(self, batch: Batch) -> None:
        """Let contexts that have been computed anew take the place of those before."""
        for session in batch.refilling:
            refill = session.refill
            if refill is not None and refill.is_awaited and not refill.num_positions_left:
                spare = self._scheduler.take_spare(session)
                if spare is not None:
                    self._runner.exchange(session.slot, spare)
                session.refill = None

    def _listened(
        self, batch: Batch, outcome: StepOutcome, milliseconds: float
    ) -> Iterator[SessionEvent]:
        for row, (session, choice) in enumerate(zip(batch.listening, outcome.choices, strict=True)):
            session.pending_chunks.popleft()
            if math.isnan(choice.speak_probability):
                yield session, _fail(session, BROKEN_NUMBERS)
                continue
            # A copy, so that the context does not hold on to the whole batch.
            features = outcome.features[row].clone()
            yield session, self._decide(session, choice, features, milliseconds)

    def _decide(
        self, session: Session, choice: Choice, features: "Tensor", milliseconds: float
    ) -> Decision:
        control = self.checkpoint.control_tokens
        chunk = session.num_chunks_heard
        request = session.request
        is_asked_for = request is not None and chunk == request.at_chunk
        token = control.text_begin if is_asked_for else choice.token
        session.num_chunks_heard += 1
        session.num_positions += len(listening_tokens(control, session.last_token))
        heard = HeardChunk(features, [token], chunk)
        session.context.append(heard)
        if session.refill is not None:
            session.refill.hear(heard)
        session.state, effect = advance(session.state, kind_of(token, control))
        if effect is Effect.OPEN_TURN:
            detokenizer = Detokenizer(self.checkpoint.tokenizer)
            session.turn = Turn(session.num_turns, chunk, detokenizer)
            session.num_turns += 1
            session.answered_chunk = chunk
            if request is not None and chunk >= request.since_chunk:
                session.request = None
        decision = Decision(
            chunk=chunk,
            speak=effect is Effect.OPEN_TURN,
            speak_probability=choice.speak_probability,
            threshold=speak_threshold(session.settings.decision_bias),
            milliseconds=milliseconds,
            positions=session.num_positions,
            max_positions=self.max_positions,
            words=(
                None
                if session.words is None
                else session.words.hear(choice.pieces, chunk * FEATURES_PER_CHUNK)
            ),
            loudest=choice.loudest,
            token_ids=(token,),
        )
        if session.trace is not None:
            cause = Cause.REQUESTED if is_asked_for else Cause.DRAWN
            session.trace.decided(TracedDecision(decision, token, choice.logits, cause))
        return decision

    def _spoken(self, batch: Batch, outcome: StepOutcome) -> Iterator[SessionEvent]:
        for session, token in zip(batch.speaking, outcome.tokens, strict=True):
            if token is None:
                yield session, _fail(session, BROKEN_NUMBERS)
                continue
            for event in self._say(session, token):
                yield session, event

    def _say(self, session: Session, sampled: int) -> Iterator[Event]:
        control = self.checkpoint.control_tokens
        turn = session.turn
        assert turn is not None, "a speaking session has a turn"
        status, cause = TurnStatus.COMPLETED, Cause.DRAWN
        token = sampled
        if session.is_interrupted:
            token, status, cause = control.text_end, TurnStatus.CANCELLED, Cause.CANCELLED
        elif turn.num_tokens >= _longest(session, turn):
            token, status, cause = control.text_end, TurnStatus.INCOMPLETE, Cause.LONGEST
        session.num_positions += 1
        session.context[-1].tokens.append(token)
        if session.refill is not None:
            session.refill.say()
        effect, emotion, delta = self._follow(session, turn, token)
        if session.trace is not None:
            ended_as = status if effect is Effect.CLOSE_TURN else None
            session.trace.said(TracedToken(turn.number, token, cause, delta, emotion, ended_as))
        turn.untold.append(token)
        if not turn.is_announced:
            turn.is_announced = True
            yield TurnStarted(turn.number, turn.chunk, turn.emotion, turn.take_untold())
        if delta:
            yield TextDelta(turn.number, delta, turn.take_untold())
        if effect is Effect.CLOSE_TURN:
            session.turn, session.is_interrupted = None, False
            yield TurnDone(
                turn.number,
                turn.chunk,
                "".join(turn.pieces),
                turn.emotion,
                status,
                turn.num_tokens,
                turn.take_untold(),
            )

    def _follow(
        self, session: Session, turn: Turn, token: int
    ) -> tuple[Effect, Emotion | None, str]:
        """Go on with a reply's next token: what it does, the emotion that it names, its text."""
        control = self.checkpoint.control_tokens
        turn.num_tokens += 1
        session.state, effect = advance(session.state, kind_of(token, control))
        emotion = control.emotion_of(token) if effect is Effect.NAME_EMOTION else None
        turn.emotion = turn.emotion or emotion
        delta = turn.detokenizer.add(token) if effect is Effect.ADD_TEXT else ""
        if delta:
            turn.pieces.append(delta)
        return effect, emotion, delta

    def _end(self, batch: Batch) -> Iterator[SessionEvent]:
        for session in batch.ending:
            session.is_ended = True
            yield session, SessionEnded()


def _limits(num_slots: int, is_cpu: bool) -> StepLimits:
    """On a CPU a step takes as long as its rows, so it has few.

    There memory is taken only as it is used, too.
    """
    if is_cpu:
        spares = max(min(num_slots, CPU_LIMITS.spares), num_slots // CPU_LIMITS.spares)
        return replace(CPU_LIMITS, spares=spares)
    num_heard = min(num_slots, LONG_ROWS[-1])
    return StepLimits(
        listening=num_heard,
        pieces=MAX_PIECES,
        rows=num_heard + MAX_PIECES,
        spares=1 + num_slots // CPU_LIMITS.spares,
    )


def _longest(session: Session, turn: Turn) -> int:
    """In tokens; a model that was asked to speak and has no words is not waited for."""
    longest = session.max_reply_tokens
    return longest if turn.pieces else min(longest, WORDLESS_TOKENS)


def _step_of(batch: Batch) -> Step:
    return Step(
        listening=[_row(session) for session in batch.listening],
        chunks=[session.pending_chunks[0].samples for session in batch.listening],
        speaking=[_row(session) for session in batch.speaking],
        pieces=batch.pieces,
    )


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def _fail(session: Session, message: str) -> SessionFailed:
    session.is_ended = True
    if session.trace is not None:
        session.trace.failed(message)
    return SessionFailed(message)


def _row(session: Session) -> StepRow:
    return StepRow(
        slot=session.slot,
        position=session.num_positions,
        token=session.last_token,
        sampling=session.sampling,
        decision_bias=session.settings.decision_bias,
        uniform=session.draw_uniform(),
    )
