"""How much memory a server holds over a long conversation that is recorded."""

import asyncio
import itertools
import tempfile
from dataclasses import dataclass

from tqdm import tqdm

from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS
from bench.errors import BenchError
from bench.samples import endless_talk
from bench.serving import OFFLINE_VOICE, Caller, Served, calling, server

NUM_LOOKS = 4
"""How often the memory is looked at after the first minute."""
MAX_AHEAD = 16
"""Chunks that are sent before they are decided: the hour takes as long as the model does."""
PCM16_BYTES = 2

SPOKEN = {"output_modalities": ["audio"], "audio": {"output": {"voice": OFFLINE_VOICE}}}


@dataclass(frozen=True, slots=True)
class Look:
    """The server's memory at one moment."""

    seconds: float
    """Of the conversation, until then."""
    resident_mib: float


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """One conversation."""

    looks: list[Look]
    """At its beginning, after its first minute or less, then evenly until its end."""
    packed_mib: float
    """Resident, when its recording had been packed."""
    sound_mib: float
    """What its sound takes as 16-bit PCM."""


async def measure_memory(served: Served, minutes: float) -> MemoryFigures:
    """Talk with a server as fast as it hears, and look at its memory.

    Raises:
        BenchError: it refuses something, or psutil is missing.
    """
    num_chunks = max(1, round(60 * minutes / CHUNK_SECONDS))
    first = min(round(60 / CHUNK_SECONDS), num_chunks)
    rest = num_chunks - first
    look_at = {first + rest * number // NUM_LOOKS for number in range(NUM_LOOKS + 1)}
    async with calling(served.address, record="1") as caller:
        await caller.ask("session.update", session=SPOKEN)
        await caller.until("session.updated")
        looks = [Look(0.0, resident_mib(served.process_id))]
        room = asyncio.Semaphore(MAX_AHEAD)
        saying = asyncio.ensure_future(_say(caller, num_chunks, room))
        progress = tqdm(total=num_chunks, unit="chunk", leave=False, disable=None)
        with progress:
            async for decided in caller.decisions(num_chunks):
                room.release()
                progress.update()
                if decided.chunk + 1 in look_at:
                    seconds = (decided.chunk + 1) * CHUNK_SECONDS
                    looks.append(Look(seconds, resident_mib(served.process_id)))
        await saying
        await caller.ask("recording.stop")
        await caller.until("recording.stopped")
        packed_mib = resident_mib(served.process_id)
    return MemoryFigures(looks, packed_mib, num_chunks * CHUNK_SAMPLES * PCM16_BYTES / 2**20)


async def _say(caller: Caller, num_chunks: int, room: asyncio.Semaphore) -> None:
    for chunk in itertools.islice(endless_talk(), num_chunks):
        await room.acquire()
        await caller.say(chunk)


def resident_mib(process_id: int) -> float:
    """What a process holds in memory now.

    Raises:
        BenchError: psutil is missing.
    """
    try:
        import psutil
    except ImportError as error:
        raise BenchError("memory is seen with `pip install -r requirements-dev.txt`") from error
    return float(psutil.Process(process_id).memory_info().rss / 2**20)


def report_memory(minutes: float) -> None:
    """Print what a server holds over one conversation that is recorded and answered aloud.

    Raises:
        BenchError: the server does not start, or refuses something.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        server("--sessions", "1", "--recordings", folder) as served,
    ):
        figures = asyncio.run(measure_memory(served, minutes))
    print(f"Resident memory of the server, one conversation of {minutes:g} minutes, embedded")
    show_memory(figures)


def show_memory(figures: MemoryFigures) -> None:
    """Print the memory as it grew, beside what the conversation's sound takes."""
    for look in figures.looks:
        print(f"{f'after {look.seconds / 60:.1f} min':<16}{look.resident_mib:>8.1f} MiB")
    print(f"{'recording packed':<16}{figures.packed_mib:>8.1f} MiB")
    settled, last = figures.looks[1], figures.looks[-1]
    grown_mib = last.resident_mib - settled.resident_mib
    print(
        f"Grown since minute {settled.seconds / 60:.1f}: {grown_mib:.1f} MiB, "
        f"{grown_mib / figures.sound_mib:.3f} of the {figures.sound_mib:.0f} MiB "
        "that the conversation's sound takes\n"
    )
