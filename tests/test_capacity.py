"""What a machine carries is measured by real steps: here they take what the test says."""

from dataclasses import replace

import pytest

from backend.config import CHUNK_SECONDS, Bits, EngineConfig
from backend.engine import Engine
from backend.engine.capacity import (
    BUSY_SHARE,
    IN_TIME_SECONDS,
    Capacity,
    measure_capacity,
    slots_to_measure,
    too_slow,
)
from backend.model.checkpoint import Checkpoint
from backend.model.layout import EMBEDDED
from tests.simulated import Costs, SimulatedEngine


def measured(checkpoint: Checkpoint, costs: Costs, num_slots: int, *, is_shared: bool) -> Capacity:
    engine = SimulatedEngine(checkpoint, num_slots, costs)
    capacity = measure_capacity(engine.core, num_slots, is_shared=is_shared, clock=engine.clock)
    assert not engine.core.sessions, "nothing stays behind"
    return capacity


@pytest.mark.parametrize("chunk", [0.005, 0.02, 0.1])
def test_as_many_are_let_in_as_are_heard_in_time(
    embedded_checkpoint: Checkpoint, chunk: float
) -> None:
    costs = Costs(step=0.0, chunk=chunk)
    capacity = measured(embedded_checkpoint, costs, 128, is_shared=True)
    assert capacity.chunk_seconds == pytest.approx(chunk)
    most = BUSY_SHARE * CHUNK_SECONDS / chunk
    assert 0.6 * most - 1 < capacity.num_sessions <= most
    engine = SimulatedEngine(embedded_checkpoint, capacity.num_sessions, costs)
    sessions = [engine.open() for _ in range(capacity.num_sessions)]
    for number, session in enumerate(sessions):
        phase = number * CHUNK_SECONDS / len(sessions)
        engine.hear_at(session, [engine.now + phase + k * CHUNK_SECONDS for k in range(10)])
    engine.run(until=100)
    assert max(max(late) for late in engine.late.values()) < IN_TIME_SECONDS


def test_no_more_are_let_in_than_there_are_slots(embedded_checkpoint: Checkpoint) -> None:
    capacity = measured(embedded_checkpoint, Costs(), 5, is_shared=True)
    assert capacity.num_sessions == 5


def test_a_number_that_was_chosen_stays(embedded_checkpoint: Checkpoint) -> None:
    capacity = measured(embedded_checkpoint, Costs(chunk=0.3), 8, is_shared=False)
    assert capacity.num_sessions == 8
    assert capacity.is_real_time


def test_a_machine_that_is_too_slow_says_what_helps(embedded_checkpoint: Checkpoint) -> None:
    capacity = measured(embedded_checkpoint, Costs(chunk=5.5), 8, is_shared=True)
    assert capacity.num_sessions == 1
    assert not capacity.is_real_time
    large = replace(embedded_checkpoint, name="released")
    sentence = too_slow(capacity, large)
    assert sentence is not None
    assert "takes 5.5 s to hear 0.4 s of sound with released in float32 on cpu" in sentence
    assert "fewer bits (--bits 8 or 4), a GPU (--device cuda)" in sentence
    assert sentence.endswith("the smaller model (--checkpoint embedded)")
    smallest = too_slow(capacity, replace(large, bits=Bits.FOUR))
    assert smallest is not None
    assert "--bits" not in smallest
    assert EMBEDDED not in (too_slow(capacity, embedded_checkpoint) or "").partition("helps")[2]
    assert too_slow(replace(capacity, chunk_seconds=0.3), large) is None


def test_memory_limits_how_many_are_tried(
    embedded_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [2.0**30]
    monkeypatch.setattr("backend.engine.capacity.free_bytes", lambda _: free[0])
    # 18 MiB each, and half of what is free is for them.
    assert slots_to_measure(embedded_checkpoint, EngineConfig()) == 28
    assert slots_to_measure(embedded_checkpoint, EngineConfig(max_positions=1024)) == 56
    free[0] = 0.0
    assert slots_to_measure(embedded_checkpoint, EngineConfig()) == 1


def test_an_engine_measures_as_it_warms_up(golden_checkpoint: Checkpoint) -> None:
    with Engine(golden_checkpoint, EngineConfig(num_slots=2)) as engine:
        assert engine.capacity == Capacity(2)
        engine.warm_up(measures_sessions=True)
        assert 1 <= engine.capacity.num_sessions <= 2
        assert engine.capacity.chunk_seconds > 0
