"""Who waits for whom when many talk at once: the engine's own order, on a clock without time."""

from collections.abc import Iterable

import numpy as np
import pytest

from backend.config import CHUNK_SECONDS
from backend.model.checkpoint import Checkpoint
from tests.simulated import SimulatedEngine

NUM_TALKERS = 24
SECONDS = 20.0
PHASES = np.random.default_rng(5).uniform(0, CHUNK_SECONDS, NUM_TALKERS)
SLIGHT = 0.05
"""Seconds that others may cost: one chunk takes 0.4 s to come."""


def talk(engine: SimulatedEngine, seconds: float, phases: Iterable[float] = PHASES) -> list[int]:
    """Let people talk whose chunks end at these phases, alike in every test; their ids."""
    sessions = [(engine.open(), phase) for phase in phases]
    first, last = engine.now + CHUNK_SECONDS, engine.now + seconds
    for session, phase in sessions:
        engine.hear_at(session, np.arange(first, last, CHUNK_SECONDS) + phase)
    return [session.session_id for session, _ in sessions]


def lateness(engine: SimulatedEngine, talkers: list[int]) -> np.ndarray:
    """Of every decision, `[talkers, chunks]`."""
    return np.array([engine.late[talker] for talker in talkers])


@pytest.fixture
def undisturbed(embedded_checkpoint: Checkpoint) -> np.ndarray:
    """How late the talkers' decisions are with nobody else on the server."""
    engine = SimulatedEngine(embedded_checkpoint, NUM_TALKERS)
    talkers = talk(engine, SECONDS)
    engine.run(until=10 * SECONDS)
    return lateness(engine, talkers)


def test_what_a_machine_has_time_for_is_heard_in_time(undisturbed: np.ndarray) -> None:
    assert undisturbed.shape == (NUM_TALKERS, round(SECONDS / CHUNK_SECONDS) - 1)
    assert np.percentile(undisturbed, 95) < 0.05


@pytest.mark.parametrize("num_clips", [1, 3])
def test_a_clip_of_ten_minutes_delays_others_by_less_than_a_chunk(
    embedded_checkpoint: Checkpoint, undisturbed: np.ndarray, num_clips: int
) -> None:
    engine = SimulatedEngine(embedded_checkpoint, NUM_TALKERS + num_clips)
    talkers = talk(engine, SECONDS)
    for _ in range(num_clips):
        clip = engine.open()
        engine.hear_at(clip, [engine.now + 3.0] * 1500)
    engine.run(until=10 * SECONDS)
    assert (lateness(engine, talkers) - undisturbed).max() < SLIGHT
    assert len(engine.late[clip.session_id]) > SECONDS / CHUNK_SECONDS, "the clip goes on as well"


def test_a_flood_delays_others_by_less_than_a_chunk(
    embedded_checkpoint: Checkpoint, undisturbed: np.ndarray
) -> None:
    engine = SimulatedEngine(embedded_checkpoint, NUM_TALKERS + 4)
    talkers = talk(engine, SECONDS)
    for _ in range(4):
        flood = engine.open()
        engine.hear_at(flood, np.arange(engine.now + 3.0, engine.now + SECONDS, 0.02))
    engine.run(until=SECONDS)
    heard = [engine.late[talker] for talker in talkers]
    assert min(map(len, heard)) > 0.9 * undisturbed.shape[1]
    most = max(late for session in heard for late in session)
    assert most < undisturbed.max() + SLIGHT


def test_eight_contexts_that_roll_at_once_delay_no_one_for_long(
    embedded_checkpoint: Checkpoint,
) -> None:
    engine = SimulatedEngine(embedded_checkpoint, 16, max_positions=512)
    rolling = talk(engine, SECONDS, [0.0] * 8)
    others = talk(engine, SECONDS / 2, PHASES[:8])
    engine.run(until=10 * SECONDS)
    assert len(engine.rolled_at) == len(rolling)
    assert max(engine.rolled_at) - min(engine.rolled_at) < SLIGHT, "all at once"
    for talkers in (rolling, others):
        late = lateness(engine, talkers)
        assert late.max() < late[:, 1].max() + SLIGHT


def test_a_prompt_that_is_changed_delays_no_one_for_long(
    embedded_checkpoint: Checkpoint, undisturbed: np.ndarray
) -> None:
    """All that one has heard is computed anew: a few pieces in each step."""
    engine = SimulatedEngine(embedded_checkpoint, NUM_TALKERS + 1)
    talkers = talk(engine, SECONDS)
    changing = engine.open()
    engine.hear_at(changing, [engine.now] * 100)
    other = type(changing.settings)(system_prompt="Answer in French.")
    engine.at(engine.now + 10.0, lambda: engine.core.change_settings(changing, other))
    engine.run(until=10 * SECONDS)
    assert changing.refill is None, "it has gone on"
    assert lateness(engine, talkers).max() < undisturbed.max() + SLIGHT
