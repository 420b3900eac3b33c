"""What one hour through one session costs."""

import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from backend.engine.cost import listen_to_noise, peak_mib
from backend.model.checkpoint import load_checkpoint
from backend.model.layout import EMBEDDED


@dataclass(frozen=True, slots=True)
class HourFigures:
    """What one hour through one session of the embedded checkpoint takes."""

    cpu_seconds: float
    median_milliseconds: float
    slowest_milliseconds: float
    minute_mib: float
    """Peak memory of a session of a minute, before the hour."""
    peak_mib: float


def measure_hour(num_threads: int) -> HourFigures:
    """A session of an hour: for a process of its own, so that its memory is its own."""
    torch.set_num_threads(num_threads)
    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    listen_to_noise(checkpoint, 60)
    minute_mib = peak_mib()
    costs, _ = listen_to_noise(checkpoint, 3600)
    return HourFigures(
        cpu_seconds=sum(costs) / 1000,
        median_milliseconds=statistics.median(costs),
        slowest_milliseconds=max(costs),
        minute_mib=minute_mib,
        peak_mib=peak_mib(),
    )


def report_hour(num_threads: int) -> None:
    """Print what one hour through one session of the embedded checkpoint costs."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        figures = process.submit(measure_hour, num_threads).result()
    print(
        f"One hour through one session, embedded, {num_threads} thread(s): "
        f"{figures.cpu_seconds:.0f} s of CPU, {figures.median_milliseconds:.1f} ms per chunk, "
        f"the slowest {figures.slowest_milliseconds:.1f} ms\n"
        f"Peak memory: {figures.peak_mib:.0f} MiB, {figures.minute_mib:.0f} MiB of it within "
        "a first minute\n"
    )
