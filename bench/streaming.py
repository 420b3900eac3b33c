"""What a chunk costs as a session grows."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

from backend.config import CHUNK_SECONDS
from backend.engine.cost import SESSION_SECONDS, measure_streaming
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED
from bench.random_checkpoint import LARGER, SMALL, random_checkpoint

RANDOM_SIZES = {"small": SMALL, "larger": LARGER}
# Milliseconds of the reference's tower alone, which encodes the whole history for every chunk, on
# random checkpoints of these sizes; one thread of a CPU. See tests/golden/README.md for its source.
REFERENCE_TOWER_MS = {"small": (12, 176, 4073), "larger": (184, 2078, 36_251)}


def loader_of(name: str) -> Callable[[], Checkpoint]:
    """What loads the embedded checkpoint or makes a random one, in another process."""
    if name in RANDOM_SIZES:
        return partial(random_checkpoint, RANDOM_SIZES[name], torch.device("cpu"), torch.float32)
    return partial(load_checkpoint, name, device="cpu")


def report_streaming(num_threads: int) -> None:
    """Print what a chunk costs as a session grows."""
    print(f"CPU milliseconds per {CHUNK_SECONDS} s chunk of one session, {num_threads} thread(s)")
    header = "".join(f"{f'at {seconds} s':>10}" for seconds in SESSION_SECONDS)
    print(f"{'checkpoint':<22}{header}{'rolling':>10}{'weights':>11}{'peak memory':>13}")
    spawn = multiprocessing.get_context("spawn")
    for name in (EMBEDDED, *RANDOM_SIZES):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            figures = process.submit(measure_streaming, loader_of(name), num_threads).result()
        costs = "".join(f"{cost:>10.1f}" for cost in figures.milliseconds)
        label = name if name == EMBEDDED else f"random, {name}"
        print(
            f"{label:<22}{costs}{figures.rolling_milliseconds:>10.1f}"
            f"{figures.weights_mib:>7.0f} MiB{figures.peak_mib:>9.0f} MiB"
        )
        if name in REFERENCE_TOWER_MS:
            costs = "".join(f"{cost:>10}" for cost in REFERENCE_TOWER_MS[name])
            print(f"{'  reference, its tower':<22}{costs}")
    print(f"Of the peak, the libraries take {figures.imported_mib:.0f} MiB before any is loaded.")
    print("Rolling: the chunk at which a full context let go of its oldest half.\n")
