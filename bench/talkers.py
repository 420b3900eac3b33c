"""People who talk with a server in real time: for a process of its own, beside the server's."""

import asyncio
import base64
import itertools
import json
import time
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from backend.audio import float_to_pcm16, read_audio
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ
from bench.errors import BenchError
from bench.live import compose, variants
from bench.quiet import worked_seconds
from bench.samples import recordings_under
from bench.serving import Caller, Served, calling

MESSAGE_SAMPLES = SAMPLE_RATE_HZ // 10
"""As pages send them."""
MESSAGES_PER_CHUNK = CHUNK_SAMPLES // MESSAGE_SAMPLES
NUM_UTTERANCES = 48
"""Of the recording, some minutes long, that all talk from, each from another place of it."""
PATIENCE_SECONDS = 10.0
"""So long the last decisions may take; what has none by then is missing."""
LEAD_SECONDS = 0.5
"""Until the first words, once all are connected."""
ENDING_SHARE = 0.1
"""Of the chunks, which tell whether a server falls behind: at the end, most are late."""


@dataclass(frozen=True, slots=True)
class Load:
    """How many talk, and for how long."""

    num_talkers: int
    seconds: float

    @property
    def num_chunks(self) -> int:
        """Chunks of each, one at least."""
        return max(1, round(self.seconds / CHUNK_SECONDS))


@dataclass(slots=True)
class Talked:
    """What became of the chunks of all talkers."""

    late_ms: list[float] = field(default_factory=list)
    """From the end of a chunk's sound to its decision; a missing one is as late as was waited."""
    ending_ms: list[float] = field(default_factory=list)
    """Of those, the last of each talker."""
    own_ms: list[float] = field(default_factory=list)
    """How much later than their time messages were sent; it is part of the above."""
    num_missing: int = 0
    """Chunks without a decision."""
    server_cores: float = 0.0
    """That the server kept busy meanwhile, on average."""
    voice_cores: float = 0.0
    """And what it has started: its neural voice, where that is installed."""

    @property
    def falls_behind(self) -> bool:
        """Whether the server is more than a chunk late at the end: later and later, that is."""
        return bool(self.num_missing) or bool(np.median(self.ending_ms) > 1000 * CHUNK_SECONDS)


def talk(served: Served, load: Load, seed: int = 0) -> Talked:
    """Talk with a server, and say how late its decisions were.

    All connect, then all begin within one chunk of each other, at random phases.

    Raises:
        BenchError: the server refuses something, or ends a conversation.
    """
    return asyncio.run(_talk_all(served, load, seed))


async def _talk_all(served: Served, load: Load, seed: int) -> Talked:
    rng = np.random.default_rng(seed)
    messages = _messages(seed)
    talked = Talked()
    connected = asyncio.Barrier(load.num_talkers + 1)
    try:
        async with asyncio.TaskGroup() as talkers:
            for _ in range(load.num_talkers):
                first = int(rng.integers(len(messages)))
                own = itertools.islice(
                    itertools.cycle(messages), first, first + load.num_chunks * MESSAGES_PER_CHUNK
                )
                phase = rng.uniform(0, CHUNK_SECONDS)
                talkers.create_task(_talk(served.address, list(own), phase, connected, talked))
            talkers.create_task(_watch(served, load.seconds, connected, talked))
    except* BenchError as errors:
        raise errors.exceptions[0] from None
    except* aiohttp.ClientError as errors:
        raise BenchError(f"a socket broke: {errors.exceptions[0]}") from None
    return talked


async def _watch(
    served: Served, seconds: float, connected: asyncio.Barrier, talked: Talked
) -> None:
    """Note how busy the server is while all talk."""
    await connected.wait()
    await asyncio.sleep(LEAD_SECONDS)
    server, voice = worked_seconds(served.process_id)
    await asyncio.sleep(seconds)
    server_then, voice_then = worked_seconds(served.process_id)
    talked.server_cores = (server_then - server) / seconds
    talked.voice_cores = (voice_then - voice) / seconds


def _messages(seed: int) -> list[str]:
    """The recording as events of 0.1 s: made before, so that it takes no time while all talk."""
    voices = [read_audio(path) for path in recordings_under(None)]
    recording, _ = compose(list(variants(voices, NUM_UTTERANCES, seed)), seed)
    whole = len(recording) // MESSAGE_SAMPLES * MESSAGE_SAMPLES
    return [
        json.dumps(
            {
                "type": "input_audio_buffer.append",
                "audio": base64.b64encode(float_to_pcm16(samples)).decode(),
            }
        )
        for samples in recording[:whole].reshape(-1, MESSAGE_SAMPLES)
    ]


async def _talk(
    address: str,
    messages: list[str],
    phase_seconds: float,
    connected: asyncio.Barrier,
    talked: Talked,
) -> None:
    num_chunks = len(messages) // MESSAGES_PER_CHUNK
    async with calling(address) as caller:
        await connected.wait()
        began = time.perf_counter() + LEAD_SECONDS + phase_seconds
        hearing = asyncio.ensure_future(_hear(caller, began, num_chunks))
        try:
            for number, message in enumerate(messages, start=1):
                due_at = began + number * MESSAGE_SAMPLES / SAMPLE_RATE_HZ
                await asyncio.sleep(due_at - time.perf_counter())
                talked.own_ms.append((time.perf_counter() - due_at) * 1000)
                await caller.send(message)
            late_ms = await hearing
        finally:
            hearing.cancel()
    num_missing = num_chunks - len(late_ms)
    gave_up_at = time.perf_counter()
    for chunk in range(len(late_ms), num_chunks):
        late_ms.append((gave_up_at - began - (chunk + 1) * CHUNK_SECONDS) * 1000)
    talked.late_ms += late_ms
    talked.ending_ms += late_ms[-max(1, round(num_chunks * ENDING_SHARE)) :]
    talked.num_missing += num_missing


async def _hear(caller: Caller, began: float, num_chunks: int) -> list[float]:
    """How late each decision is in milliseconds, until all have come or patience has ended."""
    late_ms: list[float] = []
    ends = began + num_chunks * CHUNK_SECONDS + PATIENCE_SECONDS - time.perf_counter()
    try:
        async with asyncio.timeout(ends):
            async for decided in caller.decisions(num_chunks):
                if decided.chunk != len(late_ms):
                    raise BenchError(f"chunk {len(late_ms)} was lost")
                due_at = began + (decided.chunk + 1) * CHUNK_SECONDS
                late_ms.append((time.perf_counter() - due_at) * 1000)
    except TimeoutError:
        pass
    return late_ms
