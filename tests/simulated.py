"""A machine that computes nothing and takes its time by a clock that the test owns."""

import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from backend.config import CHUNK_SAMPLES, ONLY_WHEN_ASKED, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.engine.model_runner import Choice, ModelRunner, Step, StepOutcome
from backend.engine.session import Session
from backend.events import ContextRolled, Decision
from backend.model.checkpoint import Checkpoint

SILENCE = np.zeros(CHUNK_SAMPLES, np.float32)
QUIET = SessionSettings(system_prompt="", decision_bias=ONLY_WHEN_ASKED, max_reply_tokens=16)


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that the parts of a step take: about those of the embedded model on a core."""

    step: float = 0.004
    chunk: float = 0.0035
    """To hear one."""
    token: float = 0.001
    piece: float = 0.0025
    """Of a context that is computed anew."""


class SimulatedRunner:
    """Keeps silence, and replies with one and the same token; has the members of `ModelRunner`."""

    def __init__(
        self, checkpoint: Checkpoint, costs: Costs, spend: Callable[[float], None]
    ) -> None:
        control = checkpoint.control_tokens
        self._silence = Choice(control.keep_silence, 0.0, (0.0, 0.0))
        self._token = control.text_begin + 100
        self._costs = costs
        self._spend = spend

    def limit_threads(self, num_threads: int | None) -> None: ...

    def forget(self, slot: int) -> None: ...

    def exchange(self, slot: int, other: int) -> None: ...

    def run(self, step: Step) -> StepOutcome:
        num_heard, num_said = len(step.listening), len(step.speaking)
        costs = self._costs
        self._spend(
            costs.step
            + num_heard * costs.chunk
            + num_said * costs.token
            + len(step.pieces) * costs.piece
        )
        features = torch.zeros(num_heard, 10, 1)
        return StepOutcome(features, [self._silence] * num_heard, [self._token] * num_said)


class SimulatedEngine:
    """An engine's core on such a machine, what is yet to come, and how late decisions were."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        num_slots: int,
        costs: Costs | None = None,
        max_positions: int | None = None,
    ) -> None:
        self.now = 0.0
        self.late: dict[int, list[float]] = defaultdict(list)
        """Of each session, by its id: seconds from a chunk's end to its decision."""
        self.rolled_at: list[float] = []
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ended_at: dict[int, deque[float]] = defaultdict(deque)
        self.core = EngineCore(
            checkpoint,
            EngineConfig(num_slots, max_positions),
            clock=self.clock,
            runner=lambda checkpoint, _slots, _positions: cast(
                ModelRunner, SimulatedRunner(checkpoint, costs or Costs(), self._spend)
            ),
        )

    def clock(self) -> float:
        return self.now

    def open(self) -> Session:
        """A session whose prompt has been taken in."""
        session = self.core.open(QUIET)
        while self.core.has_work():
            list(self.core.step())
        return session

    def at(self, moment: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._coming, (moment, next(self._order), act))

    def hear_at(self, session: Session, moments: Iterable[float]) -> None:
        """Have chunks of a session come at these moments, each when its sound has ended."""
        for moment in moments:
            self.at(moment, lambda: self.core.hear(session, SILENCE))
            self._ended_at[session.session_id].append(moment)

    def run(self, until: float) -> None:
        """Take steps while there is anything to do, until all that was to come has, or `until`."""
        while self.now < until and (self._coming or self.core.has_work()):
            while self._coming and self._coming[0][0] <= self.now:
                heapq.heappop(self._coming)[2]()
            if not self.core.has_work():
                self.now = max(self.now, self._coming[0][0])
                continue
            for session, event in self.core.step():
                if isinstance(event, Decision):
                    ended_at = self._ended_at[session.session_id].popleft()
                    self.late[session.session_id].append(self.now - ended_at)
                elif isinstance(event, ContextRolled):
                    self.rolled_at.append(self.now)

    def _spend(self, seconds: float) -> None:
        self.now += seconds
