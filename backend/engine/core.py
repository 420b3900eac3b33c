"""The engine's core: synchronous, one step at a time, no threads.

A step is: form the batch, make room in full contexts, hear the chunks that wait, say the next
token of every reply.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.config import CHUNK_SAMPLES, EngineConfig, SamplingConfig, SessionSettings
from backend.engine.context import HeardChunk, chunks_to_keep
from backend.engine.model_runner import Choice, ModelRunner, StepRow
from backend.engine.scheduler import Batch, Scheduler
from backend.engine.session import Detokenizer, ReplyRequest, Session, Turn
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
from backend.model.memory import needing_memory
from backend.protocol import (
    Effect,
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
_WARMING_STEPS = 3
"""To hear a chunk, and to say two tokens."""
BROKEN_NUMBERS = "the model's numbers broke down in this conversation; start a new one"


class EngineCore:
    """Sessions, their slots and the model that serves them. Not thread-safe.

    Args:
        checkpoint: the model.
        config: number of slots and size of a context.
        clock: seconds, for the cost of a chunk.
        runner: makes what runs the model.

    Raises:
        SettingsError: the context is too small, or too small for the checkpoint's own prompt; or
            the device has no room for so many contexts of this size.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EngineConfig,
        clock: Callable[[], float] = time.perf_counter,
        runner: Callable[[Checkpoint, int, int], ModelRunner] = ModelRunner,
    ) -> None:
        self.checkpoint = checkpoint
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
            self._runner = runner(checkpoint, config.num_slots, self.max_positions)
        self._scheduler = Scheduler(config.num_slots, self.max_positions)
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
            session = self.open(SessionSettings())
            try:
                self.request_reply(session)
                self.hear(session, np.zeros(CHUNK_SAMPLES, np.float32))
                for _ in range(_WARMING_STEPS):
                    list(self.step())
            finally:
                self.close(session)

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
        session = Session(
            session_id=next(self._session_ids),
            slot=slot,
            settings=settings,
            sampling=self._sampling(settings),
            max_reply_tokens=self._max_reply_tokens(settings),
            prefix=prefix,
            generator=_generator(settings.seed),
            trace=trace,
        )
        self._fill_cache(session)
        self._scheduler.add(session)
        return session

    def change_settings(self, session: Session, settings: SessionSettings) -> None:
        """Let what follows be sampled by `settings`; another seed begins its draws anew.

        With another prompt, all that was heard and said is taken in again under it, which costs as
        much as a full context's roll.

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
            if len(prefix) + context_positions > self.max_positions:
                self._shorten(session)
            self._fill_cache(session)
        if session.trace is not None:
            stated = replace(settings, system_prompt=self._prompt(settings))
            session.trace.settings_changed(stated, session.sampling, session.max_reply_tokens)

    def close(self, session: Session) -> None:
        """End a conversation and free its slot."""
        # First of all: a device that fails keeps no slot from being free.
        self._scheduler.remove(session)
        # A mask hides what a slot holds, but not a NaN: 0 times it is still one.
        self._runner.wipe(session.slot)

    def hear(self, session: Session, chunk: npt.NDArray[np.float32]) -> None:
        """Queue a chunk `[6400]` of the session's audio."""
        heard = chunk if session.trace is None else session.trace.hears(chunk)
        session.pending_chunks.append(heard)

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
        """Let every session that can take a step take it; yields what happens, in order."""
        began = self._clock()
        batch = self._scheduler.schedule()
        yield from self._make_room(batch)
        yield from self._listen(batch, began)
        yield from self._speak(batch)
        yield from self._end(batch)

    def fail_active(self) -> Iterator[SessionEvent]:
        """After a step that broke: end every conversation that was in it."""
        batch = self._scheduler.schedule()
        for session in batch.listening + batch.speaking:
            yield session, _fail(session, "the model failed on this conversation; start a new one")

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

    def _fill_cache(self, session: Session) -> None:
        """Compute the session's context from its first position; the last token stays out."""
        control = self.checkpoint.control_tokens
        tokens = list(session.prefix)
        feature_starts = []
        for chunk in session.context:
            # The chunk's input without the token before it, which is there already.
            feature_starts.append(len(tokens) + 1)
            tokens += listening_tokens(control, tokens[-1])[1:]
            tokens += chunk.tokens
        features = [chunk.features for chunk in session.context]
        self._runner.prefill(session.slot, tokens[:-1], feature_starts, features)
        session.num_positions = len(tokens) - 1

    def _shorten(self, session: Session) -> None:
        """Let go of the oldest part of the context; the chunk that is being answered stays."""
        room = self.max_positions // 2 - len(session.prefix)
        kept = chunks_to_keep(session.context, max(room, session.context[-1].num_positions))
        session.context = [session.context[index] for index in kept]

    def _make_room(self, batch: Batch) -> Iterator[SessionEvent]:
        for session in batch.rolling:
            before = session.num_positions
            self._shorten(session)
            self._fill_cache(session)
            rolled = ContextRolled(before, session.num_positions)
            if session.trace is not None:
                session.trace.rolled(rolled)
            yield session, rolled

    def _listen(self, batch: Batch, began: float) -> Iterator[SessionEvent]:
        sessions = batch.listening
        if not sessions:
            return
        features = self._runner.encode(
            [session.slot for session in sessions],
            [session.pending_chunks[0] for session in sessions],
        )
        choices = self._runner.decide([_row(session) for session in sessions], features)
        milliseconds = (self._clock() - began) * 1000
        for row, (session, choice) in enumerate(zip(sessions, choices, strict=True)):
            session.pending_chunks.popleft()
            if math.isnan(choice.speak_probability):
                yield session, _fail(session, BROKEN_NUMBERS)
                continue
            # A copy, so that the context does not hold on to the whole batch.
            yield session, self._decide(session, choice, features[row].clone(), milliseconds)

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
        session.context.append(HeardChunk(features, [token]))
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
        )
        if session.trace is not None:
            cause = Cause.REQUESTED if is_asked_for else Cause.DRAWN
            session.trace.decided(TracedDecision(decision, token, choice.logits, cause))
        return decision

    def _speak(self, batch: Batch) -> Iterator[SessionEvent]:
        sessions = batch.speaking
        if not sessions:
            return
        tokens = self._runner.speak([_row(session) for session in sessions])
        for session, token in zip(sessions, tokens, strict=True):
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
        elif turn.num_tokens >= session.max_reply_tokens:
            token, status, cause = control.text_end, TurnStatus.INCOMPLETE, Cause.LONGEST
        session.num_positions += 1
        session.context[-1].tokens.append(token)
        turn.num_tokens += 1
        session.state, effect = advance(session.state, kind_of(token, control))
        emotion = control.emotion_of(token) if effect is Effect.NAME_EMOTION else None
        delta = turn.detokenizer.add(token) if effect is Effect.ADD_TEXT else ""
        if session.trace is not None:
            ended_as = status if effect is Effect.CLOSE_TURN else None
            session.trace.said(TracedToken(turn.number, token, cause, delta, emotion, ended_as))
        turn.emotion = turn.emotion or emotion
        if not turn.is_announced:
            turn.is_announced = True
            yield TurnStarted(turn.number, turn.chunk, turn.emotion)
        if delta:
            turn.pieces.append(delta)
            yield TextDelta(turn.number, delta)
        if effect is Effect.CLOSE_TURN:
            session.turn, session.is_interrupted = None, False
            yield TurnDone(turn.number, turn.chunk, "".join(turn.pieces), turn.emotion, status)

    def _end(self, batch: Batch) -> Iterator[SessionEvent]:
        for session in batch.ending:
            session.is_ended = True
            yield session, SessionEnded()


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
