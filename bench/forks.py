"""How long decisions take while somebody has a session replayed another way beside them."""

import asyncio
import itertools
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field

import aiohttp
import numpy as np
from tqdm import tqdm

from backend.config import CHUNK_SECONDS
from bench.errors import BenchError
from bench.samples import endless_talk
from bench.serving import calling, server

FORKED = "/v1/gallery/conversation/forks"
ANOTHER_WAY = {"from_chunk": 0, "decision_bias": 2.0}
LONGEST_LINE = 2**24
"""Bytes; the last line of an answer is a whole story."""
NUM_ROUNDS = 2
"""Each without and with forks, so that whatever else the machine does falls on both."""


@dataclass(slots=True)
class Delays:
    """What became of the chunks of all conversations."""

    milliseconds: list[float] = field(default_factory=list)
    """From sending a chunk to its decision."""
    step_milliseconds: list[float] = field(default_factory=list)
    """Of that, in the model."""

    @property
    def num_late(self) -> int:
        """Decisions that came when the next chunk was there already."""
        return sum(delay > 1000 * CHUNK_SECONDS for delay in self.milliseconds)


@dataclass(slots=True)
class ForkFigures:
    """Decisions without and with forks beside them."""

    alone: Delays = field(default_factory=Delays)
    beside: Delays = field(default_factory=Delays)
    num_forked_chunks: int = 0
    """That forks got through with meanwhile."""


async def measure_forks(address: str, num_conversations: int, seconds: float) -> ForkFigures:
    """Converse with a server in real time, without and with forks, for `seconds` each.

    Raises:
        BenchError: the server refuses something.
    """
    figures = ForkFigures()
    num_chunks = max(1, round(seconds / NUM_ROUNDS / CHUNK_SECONDS))
    total = 2 * NUM_ROUNDS * num_conversations * num_chunks
    with tqdm(total=total, unit="chunk", leave=False, disable=None) as progress:
        for _ in range(NUM_ROUNDS):
            await _converse(address, num_conversations, num_chunks, figures.alone, progress)
            conversing = asyncio.ensure_future(
                _converse(address, num_conversations, num_chunks, figures.beside, progress)
            )
            forking = asyncio.ensure_future(fork_again_and_again(address, figures))
            done, others = await asyncio.wait(
                {conversing, forking}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in others:
                task.cancel()
            for task in done:
                task.result()
    return figures


async def _converse(
    address: str, num_conversations: int, num_chunks: int, delays: Delays, progress: "tqdm[None]"
) -> None:
    # Pages do not begin at one moment: their chunks come one after the other.
    starts = [number * CHUNK_SECONDS / num_conversations for number in range(num_conversations)]
    await asyncio.gather(*(_talk(address, s, num_chunks, delays, progress) for s in starts))


async def _talk(
    address: str, start_seconds: float, num_chunks: int, delays: Delays, progress: "tqdm[None]"
) -> None:
    sent_at: list[float] = []
    async with calling(address) as caller:

        async def say_all() -> None:
            began = time.perf_counter() + start_seconds
            for number, chunk in enumerate(itertools.islice(endless_talk(), num_chunks)):
                await asyncio.sleep(began + number * CHUNK_SECONDS - time.perf_counter())
                sent_at.append(time.perf_counter())
                await caller.say(chunk)

        saying = asyncio.ensure_future(say_all())
        async for decided in caller.decisions(num_chunks):
            delays.milliseconds.append((time.perf_counter() - sent_at[decided.chunk]) * 1000)
            delays.step_milliseconds.append(decided.step_milliseconds)
            progress.update()
        await saying


async def fork_again_and_again(address: str, figures: ForkFigures) -> None:
    """Have a server replay a session of its gallery another way, until this is cancelled.

    Raises:
        BenchError: it refuses.
    """
    unlimited = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        f"http://{address}", timeout=unlimited, read_bufsize=LONGEST_LINE
    ) as http:
        while True:
            num_before = figures.num_forked_chunks
            async with http.post(FORKED, json=ANOTHER_WAY) as answer:
                async for line in answer.content:
                    match json.loads(line):
                        case {"chunk": chunk}:
                            figures.num_forked_chunks = num_before + chunk
                        case {"error": {"message": message}}:
                            raise BenchError(f"the server does not fork: {message}")


def report_forks(num_conversations: int, seconds: float) -> None:
    """Print how long decisions take without and with forks beside them.

    Raises:
        BenchError: the server does not start, or refuses something.
    """
    load = os.getloadavg()[0]
    with server("--sessions", str(num_conversations), "--no-recordings") as served:
        figures = asyncio.run(measure_forks(served.address, num_conversations, seconds))
    print(
        f"Decisions of {num_conversations} conversation(s) in real time, embedded, "
        f"{os.cpu_count()} CPUs of {platform.machine()}"
    )
    show_forks(figures)
    print(f"Load before and after: {load:.1f}, {os.getloadavg()[0]:.1f}\n")


def show_forks(figures: ForkFigures) -> None:
    """Print delays beside each other, and the model's step as their floor."""
    print(f"{'milliseconds':<24}{'p50':>8}{'p95':>8}{'most':>8}{'late':>8}{'of':>8}")
    for label, delays in (("without a fork", figures.alone), ("beside a fork", figures.beside)):
        p50, p95 = np.percentile(delays.milliseconds, [50, 95])
        print(
            f"{label:<24}{p50:>8.1f}{p95:>8.1f}{max(delays.milliseconds):>8.1f}"
            f"{delays.num_late:>8}{len(delays.milliseconds):>8}"
        )
    times = np.percentile(figures.beside.milliseconds, [50, 95])
    times /= np.percentile(figures.alone.milliseconds, [50, 95])
    print(f"{'times as long':<24}{times[0]:>8.2f}{times[1]:>8.2f}")
    floor = statistics.median(figures.alone.step_milliseconds)
    print(
        f"Floor: {floor:.1f} ms, the model's step without a fork (median)\n"
        f"Forked meanwhile: {figures.num_forked_chunks} chunks. "
        "Late: when the next chunk was there already"
    )
