"""Repeat a recorded conversation: to verify it token by token, or to take another way from a chunk.

Every token was drawn with a number of the session's own seed, from logits that depend on nothing
but what the session heard and said. So the engine, run again on the same device in the same number
format, must choose the same tokens, whatever else was in its batches. Only where two tokens were
all but equally likely may the rounding of another batch size choose the other one: the margin
says so.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.config import FEATURES_PER_CHUNK, EngineConfig, SamplingConfig, SessionSettings
from backend.engine.context import RollRule
from backend.engine.core import EngineCore
from backend.engine.model_runner import Choice, ModelRunner, Step, StepOutcome, StepRow
from backend.errors import SessionFileError, SettingsError
from backend.events import ContextRolled, Event
from backend.model.checkpoint import Checkpoint
from backend.model.fingerprint import fingerprint
from backend.model.word_head import BLANK, FEATURE_SECONDS
from backend.recordings.reader import SessionFile
from backend.recordings.recorder import describe
from backend.recordings.records import (
    DecisionRecord,
    HeardRecord,
    Manifest,
    RolledRecord,
    SettingsRecord,
    TokenRecord,
)
from backend.trace import Cause, Trace, TracedDecision, TracedToken

RECORDS_PER_STEP = 64
"""So many are read, in less time than a step of the model takes, before others have their turn."""
TIE_LOGITS = {torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.75}
"""How far rounding alone moves a difference of two logits, with room to spare."""


class DifferenceKind(StrEnum):
    """What a difference means."""

    TIE = "tie"
    """Rounding decided: both tokens were all but equally likely."""
    TOKEN = "token"
    """The engine chooses another token."""
    TEXT = "text"
    """The token has another text."""
    WORDS = "words"
    """Other words are heard."""
    CONTEXT = "context"
    """The context rolled at another place."""
    FAILED = "failed"
    """The conversation fails here."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the two tokens that differ."""

    token: int
    text: str
    logit: float
    probability: float
    """At the session's temperature, among its top-k; 0 outside of them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the engine does not do what was recorded."""

    kind: DifferenceKind
    chunk: int
    token_of_reply: int | None
    """None for a decision."""
    message: str
    recorded: Candidate | None = None
    drawn: Candidate | None = None
    margin: float | None = None
    """By how much logits would have to differ for the recorded token to be drawn."""


@dataclass(slots=True)
class Verification:
    """What came of running the engine again."""

    num_decisions: int = 0
    num_tokens: int = 0
    """Of replies."""
    ties: list[Difference] = field(default_factory=list)
    difference: Difference | None = None
    """The first real one; nothing after it was verified."""
    largest_deviation: float = 0.0
    """Of a decision's logits, of speaking less of silence, from those that were recorded."""

    @property
    def is_equal(self) -> bool:
        """Whether every token is the recorded one, but for ties."""
        return self.difference is None


@dataclass(frozen=True, slots=True)
class Draw:
    """What a token was drawn from."""

    logits: Tensor
    """`[tokens]`, of a decision `[2]`, with the bias."""
    sampling: SamplingConfig
    uniform: float


class Witness(ModelRunner):
    """A runner for one session that goes on with the token it is told to, and says what it drew."""

    expected: int | None = None
    """The next token, whatever is drawn; None leaves it as it is drawn."""
    drawn: int = 0
    draw: Draw
    word_logits: Tensor | None = None
    """Of the newest chunk, `[10, pieces + 1]`; None without a word head."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens that there are."""
        return self._decoder.vocabulary_size

    def run(self, step: Step) -> StepOutcome:
        """Go on as told."""
        outcome = super().run(step)
        for choice in outcome.choices:
            self.drawn = choice.token
        for token in outcome.tokens:
            if token is None:
                return outcome
            self.drawn = token
        if self.expected is None:
            return outcome
        return replace(
            outcome,
            choices=[replace(choice, token=self.expected) for choice in outcome.choices],
            tokens=[self.expected for _ in outcome.tokens],
        )

    def _decide(
        self, rows: Sequence[StepRow], hidden: Tensor, word_logits: Tensor | None
    ) -> list[Choice]:
        if rows and word_logits is not None:
            self.word_logits = word_logits[0].float()
        return super()._decide(rows, hidden, word_logits)

    def _draw(self, rows: Sequence[StepRow], logits: Tensor) -> Tensor:
        self.draw = Draw(logits[0].float(), rows[0].sampling, rows[0].uniform)
        return super()._draw(rows, logits)


class _Notes:
    """A trace that keeps the newest of each, and passes everything on."""

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace
        self.is_given = False
        self.decision: TracedDecision | None = None
        self.token: TracedToken | None = None
        self.rolls: list[ContextRolled] = []
        self.failure: str | None = None

    @property
    def has_any(self) -> bool:
        """Whether there is something new."""
        return any(new is not None for new in (self.decision, self.token, self.failure))

    def clear(self) -> None:
        self.decision = self.token = None

    def hears(self, chunk: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return chunk if self._trace is None else self._trace.hears(chunk)

    def decided(self, decision: TracedDecision) -> None:
        self.decision = decision
        if self._trace is not None:
            self._trace.decided(replace(decision, cause=self._cause(decision.cause)))

    def said(self, token: TracedToken) -> None:
        self.token = token
        if self._trace is not None:
            self._trace.said(replace(token, cause=self._cause(token.cause)))

    def settings_changed(
        self, settings: SessionSettings, sampling: SamplingConfig, max_reply_tokens: int
    ) -> None:
        if self._trace is not None:
            self._trace.settings_changed(settings, sampling, max_reply_tokens)

    def rolled(self, rolled: ContextRolled) -> None:
        self.rolls.append(rolled)
        if self._trace is not None:
            self._trace.rolled(rolled)

    def failed(self, message: str) -> None:
        self.failure = message
        if self._trace is not None:
            self._trace.failed(message)

    def _cause(self, cause: Cause) -> Cause:
        return Cause.GIVEN if self.is_given and cause is Cause.DRAWN else cause


class _Repetition:
    """An engine with one session that follows a recording as far as it is told to."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        max_positions: int,
        settings: SessionSettings,
        trace: Trace | None = None,
        before_step: Callable[[], None] = lambda: None,
        roll_rule: RollRule = RollRule.AHEAD,
    ) -> None:
        self.notes = _Notes(trace)
        self._before_step = before_step
        config = EngineConfig(num_slots=1, max_positions=max_positions or None)
        self.core = EngineCore(checkpoint, config, runner=self._make_runner, roll_rule=roll_rule)
        self.core.limit_threads()
        self.session = self.core.open(settings, self.notes)

    def _make_runner(self, checkpoint: Checkpoint, num_slots: int, positions: int) -> ModelRunner:
        self.witness = Witness(checkpoint, num_slots, positions)
        return self.witness

    def step(self, expected: int | None) -> list[Event]:
        """One token; `expected` is the one to go on with."""
        self.notes.clear()
        self.witness.expected = expected
        events: list[Event] = []
        # A context that is full, or has another prompt, is computed anew first.
        while not self.notes.has_any and self.core.has_work():
            self._before_step()
            events += [event for _, event in self.core.step()]
        return events


class Verifier:
    """Runs the engine again on a session file.

    Raises:
        SessionFileError: it was recorded with another checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint, file: SessionFile) -> None:
        stated = file.manifest.checkpoint
        if (found := fingerprint(checkpoint)) != stated.fingerprint:
            raise SessionFileError(
                f"{file.name} was recorded with another checkpoint: {stated.name} "
                f"{stated.fingerprint[:12]}, and {checkpoint.name} is {found[:12]}"
            )
        self._file = file
        self._checkpoint = checkpoint
        self._engine = _Repetition(
            checkpoint,
            stated.max_positions,
            file.manifest.settings(),
            roll_rule=file.manifest.roll_rule,
        )
        self._tie_logits = TIE_LOGITS[checkpoint.dtype]
        self._token_of_reply = 0
        self._newest_piece = BLANK
        """That was heard before the chunk that is verified."""
        self._rolls: list[RolledRecord] = []
        self.outcome = Verification()

    def verify(self) -> Iterator[int]:
        """Run; yields the number of each chunk that was verified, and leaves all in `outcome`."""
        chunks = self._file.chunks()
        rolls_ahead = self._file.manifest.roll_rule is RollRule.AHEAD
        for record in self._file.records():
            if rolls_ahead and isinstance(record, SettingsRecord | DecisionRecord | TokenRecord):
                self._check_rolls()
                if self.outcome.difference is not None:
                    return
            match record:
                case SettingsRecord():
                    self._engine.core.change_settings(self._engine.session, record.settings())
                case RolledRecord():
                    self._rolls.append(record)
                case DecisionRecord():
                    self._decide(record, next(chunks))
                    yield record.chunk
                case TokenRecord():
                    self._say(record)
            if not rolls_ahead and isinstance(record, DecisionRecord | TokenRecord):
                # A context that was full rolled as the step began.
                self._check_rolls()
            if self.outcome.difference is not None:
                return
        self._check_rolls()

    def _decide(self, record: DecisionRecord, chunk: npt.NDArray[np.float32]) -> None:
        engine, control = self._engine, self._checkpoint.control_tokens
        if record.cause is Cause.REQUESTED:
            engine.core.request_reply(engine.session)
        pair = (control.keep_silence, control.text_begin)
        if record.token not in pair or record.speak != (record.token == control.text_begin):
            self._differ(DifferenceKind.TOKEN, f"{record.token} is no such decision")
            return
        engine.core.hear(engine.session, chunk)
        is_compared = record.cause is Cause.DRAWN
        engine.step(None if record.cause is Cause.REQUESTED else record.token)
        self._token_of_reply = 0
        self.outcome.num_decisions += 1
        if (traced := engine.notes.decision) is None:
            self._fail()
            return
        deviation = abs(_margin_of(traced.logits) - _margin_of(record.logits))
        self.outcome.largest_deviation = max(self.outcome.largest_deviation, deviation)
        if is_compared and engine.witness.drawn != record.token:
            self._compare(record.token, pair)
        if self.outcome.difference is None:
            self._compare_words(record, traced)

    def _say(self, record: TokenRecord) -> None:
        engine = self._engine
        self._token_of_reply += 1
        if record.cause is Cause.CANCELLED:
            engine.core.interrupt(engine.session)
        is_forced = record.cause in (Cause.CANCELLED, Cause.LONGEST)
        if record.token >= self._engine.witness.vocabulary_size:
            self._differ(DifferenceKind.TOKEN, f"there is no token {record.token}")
            return
        engine.step(None if is_forced else record.token)
        self.outcome.num_tokens += 1
        if (traced := engine.notes.token) is None:
            self._fail()
            return
        if record.cause is Cause.DRAWN and engine.witness.drawn != record.token:
            self._compare(record.token, None)
        stated = (record.token, record.status, record.emotion)
        if self.outcome.difference is None and stated != (
            traced.token,
            traced.status,
            traced.emotion,
        ):
            self._differ(
                DifferenceKind.TOKEN,
                f"recorded {_ends(record.status)} with token {record.token}, "
                f"the engine {_ends(traced.status)} with token {traced.token}",
            )
        elif self.outcome.difference is None and record.text != traced.text:
            self._differ(
                DifferenceKind.TEXT,
                f"token {record.token} is recorded as {record.text!r} and reads {traced.text!r}",
            )

    def _compare(self, recorded: int, pair: tuple[int, int] | None) -> None:
        """Name a difference in what was drawn, of a decision's `pair` or of all tokens."""
        witness = self._engine.witness
        draw, drawn = witness.draw, witness.drawn
        rows = (recorded, drawn) if pair is None else (pair.index(recorded), pair.index(drawn))
        margin = margin_to(draw, *rows)
        is_tie = margin <= self._tie_logits
        probabilities = _probabilities(draw)
        ours, theirs = (
            Candidate(
                token=token,
                text=self._text_of(token),
                logit=float(draw.logits[row]),
                probability=float(probabilities[row]),
            )
            for token, row in zip((recorded, drawn), rows, strict=True)
        )
        self._note(
            Difference(
                kind=DifferenceKind.TIE if is_tie else DifferenceKind.TOKEN,
                chunk=self._chunk,
                token_of_reply=None if pair is not None else self._token_of_reply,
                message=(
                    f"recorded {ours.text!r} ({recorded}, logit {ours.logit:.4f}, "
                    f"p {ours.probability:.4f}), drawn {theirs.text!r} ({drawn}, logit "
                    f"{theirs.logit:.4f}, p {theirs.probability:.4f}); margin {margin:.2g} logits"
                    + (", a tie within rounding" if is_tie else "")
                ),
                recorded=ours,
                drawn=theirs,
                margin=margin,
            )
        )

    def _compare_words(self, record: DecisionRecord, traced: TracedDecision) -> None:
        """Name a difference in what was heard; what was recorded counts as heard."""
        words, logits = self._engine.session.words, self._engine.witness.word_logits
        before, heard = self._newest_piece, traced.decision.words
        if record.words is None or words is None or heard is None or logits is None:
            return
        if record.words != list(map(HeardRecord.of, heard)):
            path = _word_path(record, words.pieces, before)
            margin = math.inf if path is None else _path_margin(path, logits)
            is_tie = margin <= self._tie_logits
            recorded_text = "".join(piece.text for piece in record.words)
            heard_text = "".join(piece.text for piece in heard)
            self._note(
                Difference(
                    DifferenceKind.TIE if is_tie else DifferenceKind.WORDS,
                    self._chunk,
                    token_of_reply=None,
                    message=f"recorded the words {recorded_text!r} at "
                    f"{[piece.start for piece in record.words]}, heard {heard_text!r} at "
                    f"{[piece.start_seconds for piece in heard]}; margin {margin:.2g} logits"
                    + (", a tie within rounding" if is_tie else ""),
                    margin=margin if math.isfinite(margin) else None,
                )
            )
            if is_tie and path is not None:
                words.newest = min(path[-1])
        self._newest_piece = words.newest

    def _check_rolls(self) -> None:
        recorded = [(roll.positions_before, roll.positions_after) for roll in self._rolls]
        found = [(r.positions_before, r.positions_after) for r in self._engine.notes.rolls]
        self._rolls.clear()
        self._engine.notes.rolls.clear()
        if recorded != found:
            self._differ(DifferenceKind.CONTEXT, f"the context rolled {recorded}, and now {found}")

    def _fail(self) -> None:
        self._differ(
            DifferenceKind.FAILED,
            self._engine.notes.failure or "the engine has no part in this",
        )

    def _differ(self, kind: DifferenceKind, message: str) -> None:
        self._note(Difference(kind, self._chunk, self._token_of_reply or None, message))

    def _note(self, difference: Difference) -> None:
        if difference.kind is DifferenceKind.TIE:
            self.outcome.ties.append(difference)
        else:
            self.outcome.difference = difference

    @property
    def _chunk(self) -> int:
        return max(0, self._engine.session.num_chunks_heard - 1)

    def _text_of(self, token: int) -> str:
        control = self._checkpoint.control_tokens
        for name in ("keep_silence", "text_begin", "text_end"):
            if token == getattr(control, name):
                return name.upper()
        if (emotion := control.emotion_of(token)) is not None:
            return emotion.value.upper()
        return str(self._checkpoint.tokenizer.decode([token], skip_special_tokens=False))


def margin_to(draw: Draw, recorded: int, drawn: int) -> float:
    """By how much differences of logits would have to change for `recorded` to be drawn.

    Args:
        draw: where `drawn` was drawn from.
        recorded: the row of the logits that was drawn before.
        drawn: the row that was drawn now.
    """
    logits, temperature = draw.logits.double(), draw.sampling.temperature
    swap = abs(float(logits[drawn] - logits[recorded]))
    top_k = min(1 if temperature == 0 else draw.sampling.top_k, len(logits))
    if top_k == 1:
        return swap
    values, ids = logits.topk(top_k)
    rank = {token: place for place, token in enumerate(ids.tolist())}
    if recorded not in rank:
        # It would have to be among the likeliest, in the place of the last of them.
        return swap
    cumulative = (values / temperature).softmax(dim=-1).cumsum(dim=-1)
    # The edge of the recorded token's share that is nearer to the number that was drawn.
    is_after = rank[recorded] > rank[drawn]
    edge = float(cumulative[rank[recorded] - 1 if is_after else rank[recorded]])
    return min(swap, temperature * abs(_log_odds(draw.uniform) - _log_odds(edge)))


def _word_path(record: DecisionRecord, pieces: Sequence[str], before: int) -> list[set[int]] | None:
    """The ids that each of a chunk's features may have named for the recorded words to be heard.

    Args:
        record: of the chunk.
        pieces: as they are written, by id.
        before: the id that the feature before the chunk's first named.

    Returns:
        None where there is no such piece or no such feature.
    """
    # A piece that goes on from the chunk before is not told again.
    path = [{BLANK, before}] * FEATURES_PER_CHUNK
    for word in record.words or ():
        first, end = (
            round(seconds / FEATURE_SECONDS) - record.chunk * FEATURES_PER_CHUNK
            for seconds in (word.start, word.end)
        )
        # The first of all is told without the space that begins it.
        written = next((text for text in (word.text, f" {word.text}") if text in pieces), None)
        if written is None or not 0 <= first < end <= FEATURES_PER_CHUNK:
            return None
        piece = pieces.index(written)
        path[first:] = [{piece}] * (end - first) + [{BLANK}] * (FEATURES_PER_CHUNK - end)
    return path


def _path_margin(path: Sequence[set[int]], logits: Tensor) -> float:
    """By how much logits `[10, pieces + 1]` would have to differ for a path to be the likeliest."""
    of_path = torch.stack([row[sorted(ids)].max() for row, ids in zip(logits, path, strict=True)])
    return float((logits.max(dim=-1).values - of_path).max())


def _log_odds(share: float) -> float:
    tiny = 1e-12
    share = min(max(share, tiny), 1 - tiny)
    return math.log(share / (1 - share))


def _probabilities(draw: Draw) -> Tensor:
    temperature = draw.sampling.temperature or 1.0
    top_k = len(draw.logits) if draw.sampling.temperature == 0 else draw.sampling.top_k
    values, ids = (draw.logits / temperature).topk(min(top_k, len(draw.logits)))
    return torch.zeros_like(draw.logits).scatter(0, ids, values.softmax(dim=-1))


def _margin_of(logits: tuple[float, float]) -> float:
    silence, speech = logits
    return speech - silence


def _ends(status: object) -> str:
    return "goes on" if status is None else f"ends ({status})"


# Another way from a chunk


@dataclass(frozen=True, slots=True)
class ForkOptions:
    """What is to be otherwise; None leaves it as it was."""

    from_chunk: int
    system_prompt: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    decision_bias: float | None = None
    seed: int | None = None

    def require_chunk_of(self, file: SessionFile) -> None:
        """Refuse to leave a recording where it is not.

        Raises:
            SettingsError: there is no such chunk in it.
        """
        if not 0 <= self.from_chunk < file.num_chunks:
            raise SettingsError(
                f"{file.name} has chunks 0 to {file.num_chunks - 1}, not {self.from_chunk}"
            )

    def settings(self, recorded: Manifest | SettingsRecord) -> SessionSettings:
        """What was in force as `recorded`, but for what is to be otherwise.

        Raises:
            SettingsError: a value is out of range.
        """
        drawing, bias = recorded.drawing, self.decision_bias
        settings = recorded.settings()
        return replace(
            settings,
            sampling=SamplingConfig(
                drawing.temperature if self.temperature is None else self.temperature,
                drawing.top_k if self.top_k is None else self.top_k,
            ),
            system_prompt=(
                settings.system_prompt if self.system_prompt is None else self.system_prompt
            ),
            decision_bias=settings.decision_bias if bias is None else bias,
            seed=settings.seed if self.seed is None else self.seed,
        )


def describe_fork(checkpoint: Checkpoint, file: SessionFile, options: ForkOptions) -> Manifest:
    """What a recording of another way says of itself.

    Raises:
        CheckpointError: the checkpoint has no files to tell it by.
        SettingsError: a value is out of range.
    """
    return describe(
        checkpoint,
        options.settings(file.manifest),
        min(file.manifest.checkpoint.max_positions, checkpoint.max_positions),
        title=file.manifest.title,
        forked_at_chunk=options.from_chunk,
    )


@dataclass(slots=True)
class _ChunkPlan:
    """What was recorded about one chunk: what changed before it, and what followed."""

    change: SettingsRecord | None
    is_requested: bool
    speaks: bool
    tokens: list[TokenRecord] = field(default_factory=list)


class Fork:
    """A recorded conversation, repeated up to a chunk and then going its own way.

    From there on the model hears the rest of the recording with other settings. What was
    asked for is asked for again; what was spoken over was another reply, so nothing is stopped.

    Args:
        checkpoint: any: with another than the recording's, what was said is given to it as text.
        file: the recording.
        options: what is to be otherwise.
        trace: is told of all of it.
        before_step: is called before each step; may wait, and may raise to end it.

    Raises:
        SettingsError: a setting cannot be, or there is no such chunk.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        file: SessionFile,
        options: ForkOptions,
        trace: Trace | None = None,
        before_step: Callable[[], None] = lambda: None,
    ) -> None:
        options.require_chunk_of(file)
        self._checkpoint = checkpoint
        self._file = file
        self._options = options
        self._before_step = before_step
        self._is_same_model = fingerprint(checkpoint) == file.manifest.checkpoint.fingerprint
        self._engine = _Repetition(
            checkpoint,
            file.manifest.checkpoint.max_positions,
            options.settings(file.manifest),
            trace,
            before_step,
        )

    @property
    def num_chunks(self) -> int:
        """Chunks that it is through with."""
        return self._engine.session.num_chunks_heard

    def run(self) -> Iterator[Event]:
        """What happens from the chunk on.

        Raises:
            SessionFileError: what was recorded cannot be repeated.
        """
        engine, session = self._engine, self._engine.session
        plans = _plans(self._file, self._before_step)
        for number, (plan, chunk) in enumerate(zip(plans, self._file.chunks(), strict=False)):
            if plan.change is not None:
                engine.core.change_settings(session, self._options.settings(plan.change))
            if plan.is_requested:
                engine.core.request_reply(session)
            engine.core.hear(session, chunk)
            if number < self._options.from_chunk:
                self._repeat(plan)
                continue
            engine.notes.is_given = False
            while engine.core.has_work():
                yield from engine.step(None)
            if engine.notes.failure is not None:
                return

    def _repeat(self, plan: _ChunkPlan) -> None:
        engine, control = self._engine, self._checkpoint.control_tokens
        engine.notes.is_given = True
        engine.step(control.text_begin if plan.speaks else control.keep_silence)
        for token, is_stopped in self._given_tokens(plan.tokens):
            if is_stopped:
                engine.core.interrupt(engine.session)
            engine.step(token)
        if engine.notes.failure is not None or engine.session.is_speaking:
            raise SessionFileError(
                f"{self._file.name} cannot be repeated: "
                + (engine.notes.failure or "a reply in it has no end")
            )

    def _given_tokens(self, records: Iterable[TokenRecord]) -> Iterator[tuple[int, bool]]:
        """The tokens of a reply in the words of our model, each with whether it was stopped."""
        control, tokenizer = self._checkpoint.control_tokens, self._checkpoint.tokenizer
        if self._is_same_model:
            for record in records:
                # One past the vocabulary is none of the model's.
                if record.token >= self._engine.witness.vocabulary_size:
                    raise SessionFileError(f"{self._file.name}: there is no token {record.token}")
                yield record.token, record.cause is Cause.CANCELLED
            return
        said = list(records)
        for emotion in (record.emotion for record in said if record.emotion is not None):
            yield getattr(control, emotion.value), False
        text = "".join(record.text for record in said)
        for token in tokenizer.encode(text, add_special_tokens=False).ids:
            yield token, False
        if said and said[-1].status is not None:
            yield control.text_end, said[-1].cause is Cause.CANCELLED


def _plans(file: SessionFile, rest: Callable[[], None]) -> Iterator[_ChunkPlan]:
    plan: _ChunkPlan | None = None
    change: SettingsRecord | None = None
    for number, record in enumerate(file.records()):
        if number % RECORDS_PER_STEP == RECORDS_PER_STEP - 1:
            rest()
        match record:
            case SettingsRecord():
                change = record
            case DecisionRecord():
                if plan is not None:
                    yield plan
                plan = _ChunkPlan(change, record.cause is Cause.REQUESTED, record.speak)
                change = None
            case TokenRecord() if plan is not None:
                plan.tokens.append(record)
    if plan is not None:
        yield plan
