"""Passes of fixed sizes give what rows alone give, and their launches depend on the size alone."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backend.config import EngineConfig, SamplingConfig, SessionSettings
from backend.engine.context import Piece
from backend.engine.core import EngineCore
from backend.engine.model_runner import ModelRunner, Step, StepRow
from backend.engine.static_runner import StaticRunner
from backend.events import ContextRolled, Decision, Event, HeardPiece
from backend.model.checkpoint import Checkpoint
from backend.model.slot_attention import PassSize, RowTables
from bench.random_checkpoint import RELEASED, random_checkpoint
from tests.small_checkpoint import with_words
from tests.test_engine import (
    CALM,
    DRAWN,
    chunks_of,
    hear_all,
    noise_chunks,
    outcome,
    probabilities,
    run,
)

MANY = SessionSettings(sampling=SamplingConfig(temperature=1.5, top_k=200), seed=3)
"""More than a pass draws from by itself."""
MAX_LAUNCHES = {PassSize(0, 1): 540, PassSize(1, 0): 880, PassSize(1, 1): 970}
"""Of a pass of the released model."""
WAITING = ("_local_scalar_dense", "nonzero", "item", "unique", "masked_select", "equal")
"""Operations for whose result a host waits."""


def static_core(checkpoint: Checkpoint, num_slots: int, max_positions: int) -> EngineCore:
    config = EngineConfig(num_slots, max_positions)
    return EngineCore(checkpoint, config, runner=StaticRunner)


def test_it_samples_the_reference_tokens(
    golden_checkpoint: Checkpoint, golden_clip: Mapping[str, np.ndarray]
) -> None:
    core = static_core(golden_checkpoint, 2, 1024)
    session = core.open(CALM)
    hear_all(core, session, chunks_of(golden_clip["audio"]))
    run(core)
    assert outcome(session) == golden_clip["online_keep_tokens"].tolist()


def test_sessions_equal_themselves_in_a_runner_of_rows(golden_checkpoint: Checkpoint) -> None:
    """Out of step, with rolls, in slots that are exchanged, drawn from few tokens and from many."""
    checkpoint = with_words(golden_checkpoint)
    core = static_core(checkpoint, 3, 384)
    settings = [dataclasses.replace(s, max_reply_tokens=12) for s in (CALM, DRAWN, MANY)]
    sessions = [core.open(chosen) for chosen in settings]
    audio = [noise_chunks(24, seed=i) for i in range(3)]
    given = [0] * 3
    events: dict[int, list[Any]] = {session.session_id: [] for session in sessions}
    for i in np.random.default_rng(0).permutation(np.repeat(np.arange(3), 24)):
        core.hear(sessions[i], audio[i][given[i]])
        given[i] += 1
        for session, event in core.step():
            events[session.session_id].append(event)
    for session_id, rest in run(core).items():
        events[session_id] += rest
    by_rows = EngineCore(checkpoint, EngineConfig(3, 384))
    for session, chosen, chunks in zip(sessions, settings, audio, strict=True):
        other = by_rows.open(chosen)
        hear_all(by_rows, other, chunks)
        expected = run(by_rows)[other.session_id]
        assert any(isinstance(event, ContextRolled) for event in expected)
        assert outcome(session) == outcome(other)
        found = probabilities(events[session.session_id])
        assert found == pytest.approx(probabilities(expected), abs=1e-5)
        heard = words_of(expected)
        assert len(set(heard)) > 20
        assert words_of(events[session.session_id]) == heard


def words_of(events: Sequence[Event]) -> list[HeardPiece]:
    return [word for event in events if isinstance(event, Decision) for word in event.words or ()]


def pieces_of(tokens: list[int], features: torch.Tensor, slot: int) -> list[Piece]:
    """With features in the second one, and a short one among them."""
    ends = (13, 26, 31, len(tokens))
    return [
        Piece(slot, start, tokens[start:end], *((features, 2) if start == 13 else ()))
        for start, end in zip((0, *ends), ends, strict=False)
    ]


@torch.inference_mode()
@pytest.mark.parametrize("num_slots", [1, 70])
def test_rows_of_13_equal_a_whole_prefill(golden_checkpoint: Checkpoint, num_slots: int) -> None:
    """Also where a step has more rows than a pass."""
    static = StaticRunner(golden_checkpoint, num_slots, 64)
    rows = ModelRunner(golden_checkpoint, num_slots, 64)
    generator = np.random.default_rng(0)
    for slot in range(num_slots):
        tokens = generator.integers(0, 700, 40).tolist()
        features = torch.from_numpy(generator.normal(size=(10, 64))).float()
        pieces = pieces_of(tokens, features, slot)
        outcomes = [static.run(Step(pieces=pieces)), rows.run(Step(pieces=pieces))]
        assert all(not o.choices and not o.tokens for o in outcomes)
    expected, found = (runner._decoder.cache.view(0, 0, 40) for runner in (rows, static))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    chunks = noise_chunks(num_slots, seed=1)
    drawn = SamplingConfig(temperature=1.5, top_k=50)
    asked = [StepRow(slot, 40, 7, drawn, 0.1, 0.4) for slot in range(num_slots)]
    said = [dataclasses.replace(row, position=53) for row in asked]
    for step in (Step(asked, chunks), Step(speaking=said), Step(asked, chunks, said)):
        ours, theirs = static.run(step), rows.run(step)
        assert ours.tokens == theirs.tokens
        assert [c.token for c in ours.choices] == [c.token for c in theirs.choices]
        if step.listening:
            torch.testing.assert_close(ours.features, theirs.features, atol=1e-4, rtol=1e-3)


class Launches(TorchDispatchMode):
    """What is launched: everything but views and memory that is taken."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.kinds: set[tuple[object, ...]] = set()
        """Of each: what, on what shapes."""
        self.has_doubles = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        returned = func(*args, **(kwargs or {}))
        tensors = torch.utils._pytree.tree_leaves((args, kwargs, returned))
        self.has_doubles |= any(
            isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tensors
        )
        aliases = [r.alias_info for r in func._schema.returns]
        is_view = any(a is not None and not a.is_write for a in aliases)
        name = func._schema.name.removeprefix("aten::")
        if not is_view and "empty" not in name and name not in ("_unsafe_view", "detach"):
            self.names.append(name)
            shapes = [
                (t.shape, t.stride(), t.dtype) if isinstance(t, torch.Tensor) else t
                for t in tensors
            ]
            self.kinds.add((name, str(shapes)))
        return returned


def attend_as_a_kernel_does(
    queries: torch.Tensor,
    layer: torch.Tensor,
    tables: RowTables,
    window: int | None,
    mixed: torch.Tensor,
) -> None:
    """Two launches, of which meta tensors show nothing but that they are there."""
    mixed.fill_(0).fill_(0)


@torch.inference_mode()
def test_a_pass_of_the_released_model_has_few_launches_and_waits_for_nothing() -> None:
    checkpoint = random_checkpoint(RELEASED, torch.device("meta"), torch.bfloat16)
    runner = StaticRunner(checkpoint, 256, 4096, attend_as_a_kernel_does)
    counts: dict[PassSize, int] = {}
    for size in (*MAX_LAUNCHES, PassSize(64, 256)):
        with Launches() as launches:
            runner._compute(runner._pass(size))
        counts[size] = len(launches.names)
        assert not set(WAITING) & set(launches.names)
        # MPS has none.
        assert not launches.has_doubles
    for size, most in MAX_LAUNCHES.items():
        assert counts[size] <= most, counts
    assert counts[PassSize(64, 256)] == counts[PassSize(1, 1)]


@torch.inference_mode()
def test_nothing_is_launched_for_the_first_time_after_warming_up(
    golden_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a step takes one copy up, one down, and one wait."""
    runner = StaticRunner(golden_checkpoint, 5, 128)
    with Launches() as warming:
        runner.warm_up()
    num_passes = len(runner._passes)
    moves: list[str] = []
    for memory, way in ((type(runner._inputs), "upload"), (type(runner._inputs), "download")):
        move = getattr(memory, way)

        def noted(self: Any, num_bytes: int, move: Any = move, way: str = way) -> None:
            moves.append(way)
            # How much is copied depends on whether there are sounds and features among it.
            with torch.utils._python_dispatch._disable_current_modes():
                move(self, num_bytes)

        monkeypatch.setattr(memory, way, noted)
    generator = np.random.default_rng(0)
    launch = runner._launch

    def observed(*given: Any) -> None:
        with later:
            launch(*given)

    later = Launches()
    monkeypatch.setattr(runner, "_launch", observed)
    for _ in range(12):
        slots = generator.permutation(5).tolist()
        heard, spoken = slots[: generator.integers(3)], slots[3:]
        rows = [
            StepRow(s, int(generator.integers(100)), 3, SamplingConfig(), 0, 0.5)
            for s in heard + spoken
        ]
        moves.clear()
        runner.run(Step(rows[: len(heard)], noise_chunks(len(heard), seed=0), rows[len(heard) :]))
        assert moves == ["upload", "download"]
    assert len(runner._passes) == num_passes == math.prod((7, 4)) - 1
    assert later.kinds <= warming.kinds, later.kinds - warming.kinds
