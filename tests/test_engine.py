"""The engine's core against the reference, and against itself in other company."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.config import (
    CHUNK_SAMPLES,
    GREEDY,
    LISTENING_POSITIONS,
    ONLY_WHEN_ASKED,
    EngineConfig,
    SamplingConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore
from backend.engine.model_runner import (
    Choice,
    ModelRunner,
    Step,
    StepOutcome,
    StepRow,
)
from backend.engine.session import Session
from backend.errors import SessionLimitError, SettingsError
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
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.protocol import listening_tokens

DRAWN = SessionSettings(sampling=SamplingConfig(temperature=1.5, top_k=50), seed=11)
CALM = SessionSettings(sampling=GREEDY)


def chunks_of(audio: np.ndarray) -> list[np.ndarray]:
    return list(audio[: len(audio) // CHUNK_SAMPLES * CHUNK_SAMPLES].reshape(-1, CHUNK_SAMPLES))


def noise_chunks(count: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    levels = 10 ** generator.uniform(-3, -0.5, (count, 1))
    return list((generator.standard_normal((count, CHUNK_SAMPLES)) * levels).astype(np.float32))


def run(core: EngineCore) -> dict[int, list[Event]]:
    """Step until nothing is left to do; events by session id."""
    events: dict[int, list[Event]] = {}
    while core.has_work():
        for session, event in core.step():
            events.setdefault(session.session_id, []).append(event)
    return events


def opened(core: EngineCore, settings: SessionSettings) -> Session:
    """A session whose prompt has been taken in."""
    session = core.open(settings)
    run(core)
    return session


def hear_all(core: EngineCore, session: Session, chunks: Sequence[np.ndarray]) -> None:
    for chunk in chunks:
        core.hear(session, chunk)


def outcome(session: Session) -> list[int]:
    """All tokens the session sampled that are still in its context."""
    return [token for chunk in session.context for token in chunk.tokens]


def alone(
    checkpoint: Checkpoint, chunks: Sequence[np.ndarray], settings: SessionSettings
) -> tuple[list[int], list[float]]:
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    session = core.open(settings)
    hear_all(core, session, chunks)
    events = run(core)[session.session_id]
    return outcome(session), probabilities(events)


def probabilities(events: Sequence[Event]) -> list[float]:
    return [event.speak_probability for event in events if isinstance(event, Decision)]


@pytest.fixture
def core(golden_checkpoint: Checkpoint) -> EngineCore:
    return EngineCore(golden_checkpoint, EngineConfig(num_slots=4))


def test_it_samples_the_reference_tokens(
    core: EngineCore, golden_clip: Mapping[str, np.ndarray]
) -> None:
    session = core.open(CALM)
    assert session.prefix == golden_clip["prefix_ids"].tolist()
    hear_all(core, session, chunks_of(golden_clip["audio"]))
    run(core)
    assert outcome(session) == golden_clip["online_keep_tokens"].tolist()


@pytest.mark.parametrize(
    ("dtype", "tokens"),
    [
        ("float32", "fp32_tokens"),
        ("float16", "fp16_tokens"),
        ("bfloat16", "bf16_tokens"),
    ],
)
def test_it_samples_the_offline_tokens_from_the_offline_features(
    golden_checkpoint_dir: Path, golden_clip: Mapping[str, np.ndarray], dtype: str, tokens: str
) -> None:
    checkpoint = load_checkpoint(str(golden_checkpoint_dir), device="cpu", dtype=dtype)
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    features = np.concatenate([golden_clip["feat_offline"], golden_clip["feat_silence_1s"]])
    following = iter(torch.from_numpy(features).to(checkpoint.dtype))
    core._runner.encode = lambda slots, chunks: next(following)[None]  # type: ignore[method-assign]
    session = core.open(CALM)
    hear_all(core, session, [np.zeros(CHUNK_SAMPLES, np.float32)] * len(features))
    run(core)
    assert outcome(session) == golden_clip[tokens].tolist()


@torch.inference_mode()
def test_streaming_equals_one_pass_over_the_whole_sequence(
    golden_checkpoint: Checkpoint, core: EngineCore, golden_clip: Mapping[str, np.ndarray]
) -> None:
    session = core.open(CALM)
    hear_all(core, session, chunks_of(golden_clip["audio"]))
    events = run(core)[session.session_id]
    logits = whole_pass(golden_checkpoint, session)
    control = golden_checkpoint.control_tokens
    pair = logits[:, [control.keep_silence, control.text_begin]].softmax(dim=-1)[:, 1]
    expected = pair[decision_positions(session)]
    assert probabilities(events) == pytest.approx(expected.tolist(), abs=1e-5)


def whole_pass(checkpoint: Checkpoint, session: Session) -> torch.Tensor:
    """Logits `[positions, vocabulary]` of the session's context in one causal pass."""
    control = checkpoint.control_tokens
    model = checkpoint.language_model
    tokens = list(session.prefix)
    for chunk in session.context:
        tokens += listening_tokens(control, tokens[-1])[1:] + chunk.tokens
    ids = torch.tensor(tokens[:-1])
    embeddings = model.model.embed_tokens(ids)
    embeddings[ids == control.pad] = torch.cat([chunk.features for chunk in session.context])
    return logits_of(checkpoint, embeddings)


def logits_of(checkpoint: Checkpoint, embeddings: torch.Tensor) -> torch.Tensor:
    """Logits `[positions, vocabulary]` of the library's own forward pass."""
    model = checkpoint.language_model
    hidden = model.model(inputs_embeds=embeddings[None], use_cache=False).last_hidden_state[0]
    return model.lm_head(hidden)


def decision_positions(session: Session) -> list[int]:
    positions, length = [], len(session.prefix)
    for chunk in session.context:
        length += chunk.num_positions
        positions.append(length - len(chunk.tokens) - 1)
    return positions


@pytest.mark.parametrize("slot", range(4))
@pytest.mark.parametrize("settings", [CALM, DRAWN], ids=["greedy", "drawn"])
def test_a_session_in_company_equals_itself_alone(
    core: EngineCore, golden_checkpoint: Checkpoint, slot: int, settings: SessionSettings
) -> None:
    mine = noise_chunks(12, seed=slot)
    expected_tokens, expected_probabilities = alone(golden_checkpoint, mine, settings)
    sessions = [
        core.open(settings if i == slot else dataclasses.replace(DRAWN, seed=i)) for i in range(4)
    ]
    for i, session in enumerate(sessions):
        hear_all(core, session, mine if i == slot else noise_chunks(5 + 4 * i, seed=50 + i))
    events = run(core)[sessions[slot].session_id]
    assert outcome(sessions[slot]) == expected_tokens
    assert probabilities(events) == pytest.approx(expected_probabilities, abs=1e-5)


def test_sessions_out_of_step_equal_themselves_alone(
    core: EngineCore, golden_checkpoint: Checkpoint
) -> None:
    sessions = [core.open(dataclasses.replace(DRAWN, seed=i)) for i in range(4)]
    audio = [noise_chunks(10, seed=i) for i in range(4)]
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 10))
    given = [0] * 4
    for i in order:
        core.hear(sessions[i], audio[i][given[i]])
        given[i] += 1
        list(core.step())
    run(core)
    for i, session in enumerate(sessions):
        settings = dataclasses.replace(DRAWN, seed=i)
        assert outcome(session) == alone(golden_checkpoint, audio[i], settings)[0]


def test_a_reused_slot_remembers_nothing(core: EngineCore, golden_checkpoint: Checkpoint) -> None:
    for seed in range(4):
        before = core.open(DRAWN)
        hear_all(core, before, noise_chunks(30, seed=90 + seed))
    run(core)
    for session in core.sessions:
        core.close(session)
    mine = noise_chunks(12, seed=7)
    session = core.open(DRAWN)
    hear_all(core, session, mine)
    run(core)
    assert outcome(session) == alone(golden_checkpoint, mine, DRAWN)[0]


def test_the_seed_decides_what_is_drawn(golden_checkpoint: Checkpoint) -> None:
    chunks = noise_chunks(15, seed=3)
    first, again = (alone(golden_checkpoint, chunks, DRAWN)[0] for _ in range(2))
    other = alone(golden_checkpoint, chunks, dataclasses.replace(DRAWN, seed=12))[0]
    assert first == again
    assert first != other


@torch.inference_mode()
def test_a_full_context_rolls_and_the_session_lives_on(golden_checkpoint: Checkpoint) -> None:
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1, max_positions=512))
    session = core.open(CALM)
    rolls = 0
    for chunk in noise_chunks(150, seed=5):
        core.hear(session, chunk)
        while core.has_work():
            for _, event in core.step():
                rolls += isinstance(event, ContextRolled)
                last = event
        assert session.num_positions <= 512
        assert isinstance(last, Decision | TurnDone | ContextRolled)
    assert rolls >= 3
    assert session.num_chunks_heard == 150
    assert len(session.context) <= 512 // 13
    # What is left is exactly what a fresh pass over it would compute.
    logits = whole_pass(golden_checkpoint, session)
    control = golden_checkpoint.control_tokens
    core.hear(session, np.zeros(CHUNK_SAMPLES, np.float32))
    decision = next(event for _, event in core.step() if isinstance(event, Decision))
    logits = whole_pass(golden_checkpoint, session)
    pair = logits[decision_positions(session)[-1], [control.keep_silence, control.text_begin]]
    assert decision.speak_probability == pytest.approx(pair.softmax(-1)[1].item(), abs=1e-5)


def test_contexts_that_fill_together_hold_nobody_up(
    golden_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays of each is computed while they converse on: no step is long, and none waits."""
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=8, max_positions=384))
    run_step = core._runner.run
    num_positions: list[int] = []

    def count(step: Step) -> StepOutcome:
        pieces = sum(len(piece.tokens) for piece in step.pieces)
        num_positions.append(LISTENING_POSITIONS * len(step.listening) + pieces)
        return run_step(step)

    monkeypatch.setattr(core._runner, "run", count)
    quiet = dataclasses.replace(CALM, decision_bias=ONLY_WHEN_ASKED)
    sessions = [opened(core, quiet) for _ in range(8)]
    left_at_roll: list[int] = []
    for chunk in noise_chunks(32, seed=5):
        for session in sessions:
            core.hear(session, chunk)
        while core.has_work():
            for session, event in core.step():
                if isinstance(event, ContextRolled):
                    assert session.refill is not None
                    left_at_roll.append(session.refill.num_positions_left)
    assert len(left_at_roll) == 8
    # The newest chunk, and what was too short for a piece of its own.
    assert max(left_at_roll) < 2 * LISTENING_POSITIONS
    assert max(num_positions) <= (8 + 4) * LISTENING_POSITIONS


def test_a_session_that_rolls_in_company_equals_itself_alone(
    golden_checkpoint: Checkpoint,
) -> None:
    config = EngineConfig(num_slots=3, max_positions=384)
    chunks = noise_chunks(60, seed=9)
    outcomes = []
    for company in (0, 2):
        core = EngineCore(golden_checkpoint, config)
        sessions = [core.open(DRAWN), *(core.open(CALM) for _ in range(company))]
        told: list[ContextRolled | Decision] = []
        for number, chunk in enumerate(chunks):
            for place, session in enumerate(sessions):
                core.hear(session, chunk if not place else chunks[(number + 7 * place) % 60])
            events = run(core)[sessions[0].session_id]
            told += [event for event in events if isinstance(event, ContextRolled | Decision)]
        outcomes.append((outcome(sessions[0]), told))
    (alone_tokens, alone_told), (tokens, told) = outcomes
    assert tokens == alone_tokens
    assert sum(isinstance(event, ContextRolled) for event in told) >= 2
    assert [event for event in told if isinstance(event, ContextRolled)] == [
        event for event in alone_told if isinstance(event, ContextRolled)
    ]
    assert probabilities(told) == pytest.approx(probabilities(alone_told), abs=1e-5)


def test_a_context_may_roll_in_the_middle_of_a_reply(golden_checkpoint: Checkpoint) -> None:
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1, max_positions=400))
    session = core.open(dataclasses.replace(DRAWN, max_reply_tokens=100))
    rolled_while_speaking = False
    for chunk in noise_chunks(60, seed=1):
        core.request_reply(session)
        core.hear(session, chunk)
        while core.has_work():
            was_speaking = session.is_speaking
            for _, event in core.step():
                rolled_while_speaking |= was_speaking and isinstance(event, ContextRolled)
        assert session.num_positions <= 400
    assert rolled_while_speaking
    assert session.num_turns == 60


def test_chunks_that_come_during_a_reply_are_heard_after_it(core: EngineCore) -> None:
    session = core.open(CALM)
    core.request_reply(session)
    hear_all(core, session, noise_chunks(6, seed=2))
    events = run(core)[session.session_id]
    assert [event.chunk for event in events if isinstance(event, Decision)] == list(range(6))
    kinds = [type(event) for event in events]
    assert kinds.index(TurnDone) < [i for i, kind in enumerate(kinds) if kind is Decision][1]


def test_a_requested_reply_answers_the_chunk_that_is_queued_next(core: EngineCore) -> None:
    silence = np.zeros(CHUNK_SAMPLES, np.float32)
    session = core.open(CALM)
    hear_all(core, session, [silence] * 4)
    core.request_reply(session)
    hear_all(core, session, [silence])
    events = run(core)[session.session_id]
    speaks = [event.speak for event in events if isinstance(event, Decision)]
    assert speaks == [False] * 4 + [True]


def decisions(events: Sequence[Event]) -> list[Decision]:
    return [event for event in events if isinstance(event, Decision)]


def test_a_bias_moves_the_decision_and_not_the_probability(
    golden_checkpoint: Checkpoint,
) -> None:
    chunks = noise_chunks(8, seed=3)
    spoken: dict[float, list[bool]] = {}
    for bias in (-8.0, 0.0, 8.0):
        core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1))
        session = opened(core, dataclasses.replace(CALM, decision_bias=bias))
        hear_all(core, session, chunks[:1])
        (first,) = decisions([event for _, event in core.step()])
        assert first.threshold == pytest.approx(1 / (1 + math.exp(bias)))
        run(core)
        hear_all(core, session, chunks[1:])
        heard = decisions(run(core)[session.session_id])
        assert all(d.speak == (d.speak_probability > d.threshold) for d in [first, *heard])
        spoken[bias] = [d.speak for d in [first, *heard]]
        # Until a reply is given, what was heard is the same.
        assert first.speak_probability == pytest.approx(
            alone(golden_checkpoint, chunks[:1], CALM)[1][0], abs=1e-6
        )
    assert [speaks[0] for speaks in spoken.values()] == [False, False, True]
    assert not any(spoken[-8.0])


def test_a_model_that_replies_only_when_asked(core: EngineCore) -> None:
    session = core.open(dataclasses.replace(DRAWN, decision_bias=ONLY_WHEN_ASKED))
    hear_all(core, session, noise_chunks(5, seed=3))
    core.request_reply(session)
    hear_all(core, session, noise_chunks(2, seed=4))
    heard = decisions(run(core)[session.session_id])
    assert [d.speak for d in heard] == [False] * 5 + [True, False]
    assert heard[0].threshold == 1.0


def test_one_sessions_bias_is_its_own(core: EngineCore, golden_checkpoint: Checkpoint) -> None:
    mine = noise_chunks(8, seed=3)
    session = core.open(CALM)
    eager = core.open(dataclasses.replace(CALM, decision_bias=8.0))
    hear_all(core, session, mine)
    hear_all(core, eager, mine)
    run(core)
    assert outcome(session) == alone(golden_checkpoint, mine, CALM)[0]


def test_settings_change_between_two_steps(core: EngineCore) -> None:
    session = core.open(dataclasses.replace(CALM, decision_bias=ONLY_WHEN_ASKED))
    hear_all(core, session, noise_chunks(4, seed=3))
    assert not any(d.speak for d in decisions(run(core)[session.session_id]))
    core.change_settings(session, dataclasses.replace(CALM, decision_bias=8.0, max_reply_tokens=2))
    hear_all(core, session, noise_chunks(4, seed=3))
    events = run(core)[session.session_id]
    assert any(d.speak for d in decisions(events))
    assert max(len(chunk.tokens) for chunk in session.context) <= 1 + 2 + 1


def test_another_prompt_is_as_if_it_had_always_been(core: EngineCore) -> None:
    quiet = dataclasses.replace(CALM, decision_bias=ONLY_WHEN_ASKED)
    other = dataclasses.replace(quiet, system_prompt="Answer every sound with one word.")
    chunks = noise_chunks(6, seed=3)
    changed, fresh = core.open(quiet), core.open(other)
    hear_all(core, changed, chunks[:4])
    run(core)
    core.change_settings(changed, other)
    hear_all(core, changed, chunks[4:])
    hear_all(core, fresh, chunks)
    events = run(core)
    expected = [decision.speak_probability for decision in decisions(events[fresh.session_id])]
    heard = [decision.speak_probability for decision in decisions(events[changed.session_id])]
    assert heard == pytest.approx(expected[4:], abs=1e-5)
    assert changed.num_positions == fresh.num_positions


def test_a_longer_prompt_makes_room_in_a_full_context(golden_checkpoint: Checkpoint) -> None:
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1, max_positions=512))
    quiet = dataclasses.replace(CALM, decision_bias=ONLY_WHEN_ASKED, system_prompt="hear")
    session = core.open(quiet)
    while session.num_positions + 2 * LISTENING_POSITIONS <= core.max_positions:
        hear_all(core, session, noise_chunks(1, seed=3))
        run(core)
    core.change_settings(session, dataclasses.replace(quiet, system_prompt="hear " * 40))
    assert session.num_positions <= core.max_positions
    hear_all(core, session, noise_chunks(3, seed=4))
    assert len(decisions(run(core)[session.session_id])) == 3


def test_another_seed_begins_its_draws_anew(core: EngineCore) -> None:
    session = core.open(CALM)
    session.draw_uniform()
    core.change_settings(session, dataclasses.replace(CALM, seed=9))
    assert session.draw_uniform() == core.open(dataclasses.replace(CALM, seed=9)).draw_uniform()


def test_a_decision_says_how_full_the_context_is(core: EngineCore) -> None:
    session = opened(core, CALM)
    before = session.num_positions
    hear_all(core, session, noise_chunks(2, seed=3))
    first, second = decisions(run(core)[session.session_id])
    assert first.positions == before + LISTENING_POSITIONS
    assert second.positions == first.positions + LISTENING_POSITIONS
    assert first.max_positions == core.max_positions


SPEAKS_ITSELF = {
    "before": ([True, False, False, False], [True, False, False, True]),
    "on the first": ([False, True, False, False], [False, True, False, False]),
    "later": ([False, False, True, False], [False, False, True, False]),
    "never": ([False, False, False, False], [False, False, False, True]),
}


@pytest.mark.parametrize("name", SPEAKS_ITSELF)
@pytest.mark.parametrize("is_heard_first", [False, True])
def test_a_request_is_satisfied_by_a_reply_that_the_model_starts(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch, name: str, is_heard_first: bool
) -> None:
    """The request concerns chunks 1 to 3; the first three may have been heard when it comes."""
    decided, expected = SPEAKS_ITSELF[name]
    control = core.checkpoint.control_tokens
    tokens = iter([control.text_begin if speaks else control.keep_silence for speaks in decided])

    def decide(rows: Sequence[StepRow], *_: torch.Tensor | None) -> list[Choice]:
        return [Choice(next(tokens), 0.5, (0, 0)) for _ in rows]

    monkeypatch.setattr(core._runner, "_decide", decide)
    session = core.open(CALM)
    hear_all(core, session, noise_chunks(3, seed=3))
    heard = decisions(run(core)[session.session_id]) if is_heard_first else []
    core.request_reply(session, since_chunk=1)
    hear_all(core, session, noise_chunks(1, seed=4))
    heard += decisions(run(core)[session.session_id])
    assert [d.speak for d in heard] == expected


@torch.inference_mode()
def test_a_reply_may_hold_the_token_that_stands_for_audio(
    core: EngineCore, golden_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = core.checkpoint.control_tokens
    session, _ = reply(core, CALM)
    spoken = iter([control.pad, control.audio_begin, control.assistant, control.text_end])

    def speak(rows: Sequence[StepRow], _: torch.Tensor) -> list[int]:
        return [next(spoken) for _ in rows]

    monkeypatch.setattr(core._runner, "_speak", speak)
    run(core)
    # All of it is computed anew.
    core.change_settings(session, dataclasses.replace(CALM, system_prompt="hear"))
    core.hear(session, noise_chunks(1, seed=3)[0])
    (decision, *_) = decisions(run(core)[session.session_id])
    features = iter([chunk.features for chunk in session.context])
    embeddings = golden_checkpoint.language_model.model.embed_tokens
    sequence = [embeddings(torch.tensor(session.prefix))]
    for chunk in session.context:
        heard = embeddings(torch.tensor(listening_tokens(control, 0)[1:]))
        heard[1:-1] = next(features)
        sequence += [heard, embeddings(torch.tensor(chunk.tokens))]
    logits = logits_of(golden_checkpoint, torch.cat(sequence[:-1]))[-1]
    pair = logits[[control.keep_silence, control.text_begin]].softmax(dim=-1)
    assert decision.speak_probability == pytest.approx(pair[1].item(), abs=1e-5)


def test_numbers_that_break_down_in_a_reply_end_it_and_leave_nothing(
    core: EngineCore, golden_checkpoint: Checkpoint
) -> None:
    session, _ = reply(core, DRAWN)
    core._runner._decoder.cache.view(session.slot, 0, 1).fill_(torch.nan)
    events = run(core)[session.session_id]
    assert [type(event) for event in events] == [SessionFailed]
    core.close(session)
    mine = noise_chunks(6, seed=1)
    following = core.open(CALM)
    hear_all(core, following, mine)
    run(core)
    assert outcome(following) == alone(golden_checkpoint, mine, CALM)[0]


def test_a_context_that_is_too_small_is_refused(golden_checkpoint: Checkpoint) -> None:
    for max_positions in (20, 255, 300):
        with pytest.raises(SettingsError):
            EngineCore(golden_checkpoint, EngineConfig(max_positions=max_positions))


def test_the_cost_of_a_chunk_is_its_step_s(golden_checkpoint: Checkpoint) -> None:
    ticks = iter(range(1000))
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1), lambda: next(ticks))
    session = opened(core, CALM)
    core.hear(session, noise_chunks(1, seed=1)[0])
    costs = [event.milliseconds for _, event in core.step() if isinstance(event, Decision)]
    assert costs == [1000.0]


def reply(core: EngineCore, settings: SessionSettings) -> tuple[Session, list[Event]]:
    session = opened(core, settings)
    core.request_reply(session)
    core.hear(session, noise_chunks(1, seed=4)[0])
    return session, [event for _, event in core.step()]


def test_a_requested_reply_is_given(core: EngineCore) -> None:
    _, events = reply(core, CALM)
    assert isinstance(events[0], Decision)
    assert events[0].speak


def test_an_interrupted_reply_ends_at_once_and_listening_goes_on(core: EngineCore) -> None:
    session, _ = reply(core, DRAWN)
    core.interrupt(session)
    done = [event for _, event in core.step() if isinstance(event, TurnDone)]
    assert [turn.status for turn in done] == [TurnStatus.CANCELLED]
    core.hear(session, noise_chunks(1, seed=8)[0])
    assert any(isinstance(event, Decision) for _, event in core.step())


def test_a_reply_that_is_over_is_not_taken_for_the_one_in_progress(core: EngineCore) -> None:
    session, _ = reply(core, dataclasses.replace(DRAWN, max_reply_tokens=8))
    run(core)
    core.request_reply(session)
    core.hear(session, noise_chunks(1, seed=8)[0])
    (decision,) = (event for _, event in core.step())
    assert isinstance(decision, Decision)
    (started, *_) = (event for _, event in core.step())
    assert isinstance(started, TurnStarted)
    assert started.turn == 1
    core.interrupt(session, turn=0)
    assert not session.is_interrupted
    core.interrupt(session, turn=1)
    done = [event for _, event in core.step() if isinstance(event, TurnDone)]
    assert [(turn.turn, turn.status) for turn in done] == [(1, TurnStatus.CANCELLED)]


def test_interrupting_silence_does_not_touch_the_next_reply(core: EngineCore) -> None:
    session = core.open(CALM)
    core.interrupt(session)
    core.request_reply(session)
    core.hear(session, noise_chunks(1, seed=4)[0])
    done = [e for e in run(core)[session.session_id] if isinstance(e, TurnDone)]
    assert TurnStatus.CANCELLED not in [turn.status for turn in done]


def test_the_longest_reply_is_a_limit(core: EngineCore) -> None:
    session, _ = reply(core, dataclasses.replace(DRAWN, max_reply_tokens=3))
    done = [e for e in run(core)[session.session_id] if isinstance(e, TurnDone)]
    assert [turn.status for turn in done] == [TurnStatus.INCOMPLETE]
    assert len(session.context[0].tokens) == 1 + 3 + 1


def test_text_is_the_join_of_its_deltas(core: EngineCore) -> None:
    session = core.open(DRAWN)
    for chunk in noise_chunks(10, seed=6):
        core.hear(session, chunk)
    core.request_reply(session)
    core.finish(session)
    events = run(core)[session.session_id]
    for turn in [event for event in events if isinstance(event, TurnDone)]:
        deltas = [e.delta for e in events if isinstance(e, TextDelta) and e.turn == turn.turn]
        assert "".join(deltas) == turn.text
    started = [e.turn for e in events if isinstance(e, TurnStarted)]
    done = [e.turn for e in events if isinstance(e, TurnDone)]
    assert started == done == list(range(session.num_turns))
    assert isinstance(events[-1], SessionEnded)


def test_a_session_whose_numbers_break_down_fails_alone(
    core: EngineCore, golden_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy, broken = core.open(CALM), core.open(CALM)
    encode = core._runner.encode

    def encode_badly(slots: Sequence[int], chunks: Sequence[np.ndarray]) -> torch.Tensor:
        features = encode(slots, chunks).clone()
        if broken.slot in slots:
            features[list(slots).index(broken.slot)] = torch.nan
        return features

    monkeypatch.setattr(core._runner, "encode", encode_badly)
    mine = noise_chunks(4, seed=1)
    hear_all(core, healthy, mine)
    hear_all(core, broken, noise_chunks(4, seed=2))
    events = run(core)
    assert [type(e) for e in events[broken.session_id]] == [SessionFailed]
    assert outcome(healthy) == alone(golden_checkpoint, mine, CALM)[0]
    # And its slot is clean for the next one.
    monkeypatch.undo()
    core.close(broken)
    following = core.open(CALM)
    hear_all(core, following, mine)
    run(core)
    assert outcome(following) == outcome(healthy)


def test_every_slot_taken_is_said(core: EngineCore) -> None:
    for _ in range(4):
        core.open(CALM)
    with pytest.raises(SessionLimitError, match="all 4 places"):
        core.open(CALM)


def test_the_first_steps_are_taken_before_anybody_waits(
    core: EngineCore, golden_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[str] = set()
    run_step = core._runner.run

    def note(step: Step) -> StepOutcome:
        taken.update(field.name for field in dataclasses.fields(step) if getattr(step, field.name))
        return run_step(step)

    monkeypatch.setattr(core._runner, "run", note)
    core.warm_up()
    assert taken == {"listening", "chunks", "speaking", "pieces"}
    assert core.sessions == []
    # And leave nothing behind.
    session = core.open(DRAWN)
    chunks = noise_chunks(4, seed=5)
    hear_all(core, session, chunks)
    events = run(core)[session.session_id]
    assert (outcome(session), probabilities(events)) == alone(golden_checkpoint, chunks, DRAWN)


def test_a_device_without_memory_says_what_helps(
    golden_checkpoint: Checkpoint, core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> ModelRunner:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 144.00 MiB.")

    with pytest.raises(SettingsError, match=r"no room for 900 conversations .*--sessions"):
        EngineCore(golden_checkpoint, EngineConfig(num_slots=900), runner=full)
    monkeypatch.setattr(core._runner, "_speak", full)
    with pytest.raises(SettingsError, match="no room for 4 conversations"):
        core.warm_up()
    assert core.sessions == []


def test_a_prompt_of_megabytes_is_refused_unread() -> None:
    with pytest.raises(SettingsError, match="4000000 characters"):
        SessionSettings(system_prompt="x" * 4_000_000)


def test_a_prompt_that_does_not_fit_is_refused(core: EngineCore) -> None:
    with pytest.raises(SettingsError, match="too long"):
        core.open(SessionSettings(system_prompt="word " * 5000))
    assert core.sessions == []
