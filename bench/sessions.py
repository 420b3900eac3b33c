"""What a step costs with many sessions in it."""

import statistics
import time

import torch

from backend.config import GREEDY, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.engine.cost import noise_chunks, run_steps
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED

NUM_SESSIONS = (1, 16, 64)


def report_sessions(num_threads: int) -> None:
    """Print what steps of many sessions cost for the embedded checkpoint on a CPU."""
    torch.set_num_threads(num_threads)
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    print(f"Milliseconds per step near a full context, embedded, {num_threads} thread(s)")
    print(f"{'sessions':>8}{'listening':>12}{'speaking':>12}")
    for num_sessions in NUM_SESSIONS:
        listening, speaking = measure_steps(checkpoint, num_sessions)
        print(f"{num_sessions:>8}{listening:>12.1f}{speaking:>12.1f}")


def measure_steps(checkpoint: Checkpoint, num_sessions: int) -> tuple[float, float]:
    """Median milliseconds until sessions with long contexts have all heard a chunk, or spoken."""
    core = EngineCore(checkpoint, EngineConfig(num_slots=num_sessions))
    settings = SessionSettings(sampling=GREEDY, max_reply_tokens=32)
    sessions = [core.open(settings) for _ in range(num_sessions)]
    room = 4 * settings.max_reply_tokens
    listening: list[float] = []
    for chunk in noise_chunks(10_000):
        if sessions[0].num_positions > core.max_positions - room:
            break
        for session in sessions:
            core.hear(session, chunk)
        began = time.perf_counter()
        for _ in run_steps(core):
            pass
        listening.append((time.perf_counter() - began) * 1000)
    for session in sessions:
        core.request_reply(session)
        core.hear(session, chunk)
    speaking = []
    while core.has_work():
        # The first steps hear the chunk that is answered, a few sessions in each.
        has_heard = not any(session.pending_chunks for session in sessions)
        began = time.perf_counter()
        for _ in core.step():
            pass
        if has_heard:
            speaking.append((time.perf_counter() - began) * 1000)
    return statistics.median(listening[-16:]), statistics.median(speaking)
