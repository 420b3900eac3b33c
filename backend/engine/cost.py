"""What a chunk costs, in time and memory, as a session grows."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, GREEDY, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.events import ContextRolled, Event
from backend.model.checkpoint import Checkpoint

SESSION_SECONDS = (10, 60, 300)
WINDOW_SECONDS = 8
"""A figure is the median over the chunks of this long before its time."""


def noise_chunks(num_chunks: int) -> Iterator[np.ndarray]:
    """Quiet noise: what a chunk costs does not depend on what is in it."""
    generator = np.random.default_rng(0)
    for _ in range(num_chunks):
        yield generator.normal(0, 0.01, CHUNK_SAMPLES).astype(np.float32)


def run_steps(core: EngineCore) -> Iterator[Event]:
    """Step until there is nothing left to do."""
    while core.has_work():
        for _, event in core.step():
            yield event


@dataclass(frozen=True, slots=True)
class StreamingFigures:
    """One checkpoint's cost over one long session."""

    milliseconds: tuple[float, ...]
    """Per chunk, at each of `SESSION_SECONDS`."""
    rolling_milliseconds: float
    """At the slowest chunk at which the context rolled."""
    weights_mib: float
    imported_mib: float
    """Memory of the process before the checkpoint is loaded."""
    peak_mib: float


def measure_streaming(load: Callable[[], Checkpoint], num_threads: int) -> StreamingFigures:
    """One session of 300 s: for a process of its own, so that its memory is its own."""
    torch.set_num_threads(num_threads)
    imported_mib = peak_mib()
    checkpoint = load()
    costs, rolls = listen_to_noise(checkpoint, SESSION_SECONDS[-1])
    return StreamingFigures(
        milliseconds=tuple(_window_median(costs, seconds) for seconds in SESSION_SECONDS),
        rolling_milliseconds=max(rolls),
        weights_mib=_weights_mib(checkpoint),
        imported_mib=imported_mib,
        peak_mib=peak_mib(),
    )


def listen_to_noise(checkpoint: Checkpoint, seconds: int) -> tuple[list[float], list[float]]:
    """CPU milliseconds of each chunk of one session, and of those at which the context rolled."""
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    session = core.open(SessionSettings(sampling=GREEDY))
    costs, rolls = [], []
    for chunk in noise_chunks(round(seconds / CHUNK_SECONDS)):
        # As in the reference's figures, and not disturbed by what else the machine does.
        began = time.process_time()
        core.hear(session, chunk)
        has_rolled = any(isinstance(event, ContextRolled) for event in run_steps(core))
        costs.append((time.process_time() - began) * 1000)
        if has_rolled:
            rolls.append(costs[-1])
    return costs, rolls


def _window_median(costs: list[float], seconds: int) -> float:
    end = round(seconds / CHUNK_SECONDS)
    return statistics.median(costs[end - round(WINDOW_SECONDS / CHUNK_SECONDS) : end])


def _weights_mib(checkpoint: Checkpoint) -> float:
    modules = (checkpoint.language_model, checkpoint.audio_tower)
    return sum(weight.nbytes for module in modules for weight in module.parameters()) / 2**20


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    # Only POSIX has it.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
