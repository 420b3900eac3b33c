"""What this machine carries with this checkpoint: measured at the start, with real steps."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from backend.config import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    ONLY_WHEN_ASKED,
    Bits,
    EngineConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore
from backend.engine.cost import run_steps
from backend.engine.session import Session
from backend.events import Decision
from backend.model.checkpoint import Checkpoint
from backend.model.device import free_bytes
from backend.model.layout import EMBEDDED

MOST_SESSIONS = 128
"""That are measured."""
MEMORY_SHARE = 0.5
"""Of what is free, for their contexts."""

CHUNK_TRIES = 3
"""The best of them counts: the machine may do something else at the same time."""
TRYING_SECONDS = 1.0
"""When chunks have taken so long, none is tried again."""

IN_TIME_SECONDS = 0.15
"""How late 95 of 100 decisions may be."""
BUSY_SHARE = 0.6
"""Of the time, that steps may take: contexts will be longer, and sockets and voices need some."""
TRIAL_CHUNKS = 3
CHUNKS_PER_REPLY = 25
"""In real talk, one in ten seconds."""
REPLY_TOKENS = 16
FINENESS = 8
"""The number is known to this part of it, or to one."""

_SETTINGS = SessionSettings(
    system_prompt="", max_reply_tokens=REPLY_TOKENS, decision_bias=ONLY_WHEN_ASKED
)
_SILENCE = np.zeros(CHUNK_SAMPLES, np.float32)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine carries."""

    num_sessions: int
    """Conversations that are let in side by side."""
    chunk_seconds: float = 0.0
    """What it takes to hear a chunk of the only conversation; 0 before it is measured."""

    @property
    def is_real_time(self) -> bool:
        """Whether a chunk has been heard when the next one comes."""
        return self.chunk_seconds < CHUNK_SECONDS


def too_slow(capacity: Capacity, checkpoint: Checkpoint) -> str | None:
    """Why nobody can converse here in real time, and what helps; None where all can."""
    if capacity.is_real_time:
        return None
    fewer = [bits.value for bits in Bits if bits < checkpoint.bits]
    helps = [f"weights of fewer bits (--bits {' or '.join(map(str, fewer))})"] if fewer else []
    if checkpoint.device.type == "cpu":
        helps.append("a GPU (--device cuda)")
    if checkpoint.name != EMBEDDED:
        helps.append(f"the smaller model (--checkpoint {EMBEDDED})")
    return (
        f"this machine takes {capacity.chunk_seconds:.1f} s to hear {CHUNK_SECONDS:g} s of sound "
        f"with {checkpoint.name} in {checkpoint.number_format} on {checkpoint.device}, so it "
        f"cannot converse in real time; what helps: {', '.join(helps) or 'a faster machine'}"
    )


def measure_capacity(
    core: EngineCore, num_slots: int, *, is_shared: bool, clock: Clock = time.perf_counter
) -> Capacity:
    """What the machine carries.

    Args:
        core: without conversations.
        num_slots: of it.
        is_shared: whether it is measured how many conversations are heard in time; else all slots
            are let in.
        clock: seconds, and the core's.
    """
    seconds = chunk_seconds(core)
    if not is_shared:
        return Capacity(num_slots, seconds)
    is_hopeless = seconds >= CHUNK_SECONDS
    return Capacity(1 if is_hopeless else most_in_time(core, num_slots, clock), seconds)


def slots_to_measure(checkpoint: Checkpoint, config: EngineConfig) -> int:
    """How many conversations there is memory for, with contexts as `config` has them."""
    shape = checkpoint.language_model.config
    positions = min(config.max_positions or checkpoint.max_positions, checkpoint.max_positions)
    width = shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    num_bytes = 2 * width * positions * checkpoint.dtype.itemsize
    room = MEMORY_SHARE * free_bytes(checkpoint.device)
    return max(1, min(MOST_SESSIONS, int(room / num_bytes)))


def chunk_seconds(core: EngineCore) -> float:
    """What it takes to hear a chunk of the only conversation, by the core's clock."""
    session = core.open(_SETTINGS)
    costs: list[float] = []
    try:
        while len(costs) < CHUNK_TRIES and sum(costs) < TRYING_SECONDS:
            core.hear(session, _SILENCE)
            decisions = (event for event in run_steps(core) if isinstance(event, Decision))
            costs += [decision.milliseconds / 1000 for decision in decisions]
    finally:
        core.close(session)
    return min(costs)


def most_in_time(core: EngineCore, most: int, clock: Clock = time.perf_counter) -> int:
    """How many conversations at random phases are heard in time, one at least.

    Args:
        core: without conversations.
        most: that are tried; there are as many slots.
        clock: seconds, for what steps take.
    """
    sessions: list[Session] = []
    phases = np.random.default_rng(0).uniform(0, CHUNK_SECONDS, most).tolist()

    def fits(number: int) -> bool:
        while len(sessions) < number:
            sessions.append(core.open(_SETTINGS))
        return _is_in_time(core, dict(zip(phases, sessions[:number], strict=False)), clock)

    try:
        within, beyond = 1, 2
        while beyond <= most and fits(beyond):
            within, beyond = beyond, 2 * beyond
        beyond = min(beyond, most + 1)
        while beyond - within > max(1, within // FINENESS):
            between = (within + beyond) // 2
            within, beyond = (between, beyond) if fits(between) else (within, between)
    finally:
        for session in sessions:
            core.close(session)
    return within


def _is_in_time(core: EngineCore, talkers: Mapping[float, Session], clock: Clock) -> bool:
    """Let sessions, by their phases, talk for a while, without the pauses between their chunks."""
    for _ in run_steps(core):
        pass
    coming = deque(
        sorted(
            (phase + number * CHUNK_SECONDS, session.session_id, session)
            for phase, session in talkers.items()
            for number in range(TRIAL_CHUNKS)
        )
    )
    waiting: dict[int, deque[float]] = defaultdict(deque)
    late: list[float] = []
    now = busy = 0.0
    while coming or core.has_work():
        while coming and coming[0][0] <= now:
            at, session_id, session = coming.popleft()
            if len(coming) % CHUNKS_PER_REPLY == 0:
                core.request_reply(session)
            core.hear(session, _SILENCE)
            waiting[session_id].append(at)
        if not core.has_work():
            now = coming[0][0]
            continue
        began = clock()
        events = list(core.step())
        took = clock() - began
        now, busy = now + took, busy + took
        if busy > BUSY_SHARE * TRIAL_CHUNKS * CHUNK_SECONDS:
            return False
        late += [
            now - waiting[session.session_id].popleft()
            for session, event in events
            if isinstance(event, Decision)
        ]
    return float(np.percentile(late, 95)) <= IN_TIME_SECONDS
