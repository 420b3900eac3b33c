"""What a cluster costs and how soon it goes on when a replica is killed."""

import asyncio
import json
import os
import random
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from backend.audio import Samples, float_to_pcm16
from backend.cli.cluster import free_port, prepare_ray
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ, EngineConfig
from backend.serving.server import ServingOptions
from bench.errors import BenchError
from bench.serving import server
from bench.wires import percentiles
from client.address import ServerAddress
from client.wire import RealtimeSocket, WireEvent

NUM_TALKERS = 16
NUM_KILLS = 20
NUM_IN_A_KILL = 8
MEASURED_SECONDS = 20.0
PATIENCE_SECONDS = 60.0


class ClusterTalker:
    """A client that talks over as many sockets as it takes.

    Args:
        address: of the server, `host:port`.
        speech: what it says `[n]` at 16 kHz, before it goes on in silence.
    """

    def __init__(self, address: str, speech: Samples) -> None:
        self.told: list[WireEvent] = []
        self.num_resumed = 0
        self.delays: list[float] = []
        """Seconds from a chunk's last sample to what is told of its decision."""
        self.is_begun = asyncio.Event()
        self._news = asyncio.Event()
        self._speech = speech
        self._num_sent = 0
        self._sent_at: dict[int, float] = {}
        self._socket = RealtimeSocket(ServerAddress.parse(address), self)
        self._running = asyncio.create_task(self._socket.run())

    # Of a listener.

    def receive(self, event: WireEvent) -> None:
        """An event of the server's; each comes once."""
        self.told.append(event)
        if event["type"] == "session.created":
            self.is_begun.set()
        if (chunk := _chunk_of(event)) is not None and chunk in self._sent_at:
            self.delays.append(time.monotonic() - self._sent_at[chunk])
        self._news.set()

    def connection_lost(self, *, is_restarting: bool) -> None:
        """It will be tried again."""

    def server_starting(self) -> None:
        """It will be tried again."""

    def connection_resumed(self, input_seconds: float) -> None:
        """Whatever has not arrived is sent again."""
        self.num_resumed += 1
        arrived, sent = round(input_seconds * SAMPLE_RATE_HZ), self._num_sent
        self._num_sent = arrived
        asyncio.get_running_loop().call_soon(self._send_up_to, sent)

    # Of a user.

    async def talk(self, num_chunks: int, pace_seconds: float = CHUNK_SECONDS) -> None:
        """Say the next chunks; one that has said all goes on in silence."""
        for _ in range(num_chunks):
            self._send_up_to(self._num_sent + CHUNK_SAMPLES)
            await asyncio.sleep(pace_seconds)

    async def until(self, is_so: Callable[[list[WireEvent]], bool]) -> None:
        """Wait for what is told.

        Raises:
            BenchError: it does not come.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not is_so(self.told):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise BenchError(f"waited in vain after {self.told[-1:]}") from error

    @property
    def numbers(self) -> list[int]:
        """Of the messages that were told, which begin at 1."""
        return [event["server_event_seq"] for event in self.told if "server_event_seq" in event]

    @property
    def chunks(self) -> list[int]:
        """Those that were decided on."""
        return [chunk for event in self.told if (chunk := _chunk_of(event)) is not None]

    async def leave(self) -> None:
        """Hang up."""
        self._socket.close()
        await asyncio.wait([self._running], timeout=PATIENCE_SECONDS)

    def _send_up_to(self, end: int) -> None:
        audio = self._speech[self._num_sent : end]
        padded = np.pad(audio, (0, end - self._num_sent - len(audio)))
        for start in range(0, len(padded), CHUNK_SAMPLES // 4):
            if not self._socket.is_attached:
                break
            piece = padded[start : start + CHUNK_SAMPLES // 4]
            self._socket.send_audio(float_to_pcm16(piece))
        self._num_sent = end
        if end % CHUNK_SAMPLES == 0:
            self._sent_at[end // CHUNK_SAMPLES - 1] = time.monotonic()


def _chunk_of(event: WireEvent) -> int | None:
    match event["type"]:
        case "response.listen":
            return int(event["response"]["metadata"]["chunk"])
        case "response.speak":
            return int(event["metadata"]["chunk"])
    return None


def replicas(address: str) -> list[dict[str, Any]]:
    """What a cluster says of them."""
    with urllib.request.urlopen(f"http://{address}/health", timeout=30) as answer:
        told: list[dict[str, Any]] = json.load(answer)["replicas"]
    return told


async def both_replicas(address: str, num_sessions: int = 0) -> list[dict[str, Any]]:
    """Both of them, once they are there and have so many conversations.

    Raises:
        BenchError: they are not.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        told = await asyncio.to_thread(replicas, address)
        if len(told) == 2 and sum(one["sessions"] for one in told) >= num_sessions:
            return told
        await asyncio.sleep(0.2)
    raise BenchError(f"there are not two replicas: {told}")


def report_cluster(num_kills: int = NUM_KILLS) -> None:
    """Print the figures of a cluster of two replicas, beside those of one process."""
    with server("--sessions", str(NUM_TALKERS), "--no-recordings") as served:
        alone = asyncio.run(_delays(served.address))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_now:
        prepare_ray(Path(folder))
        from backend.cluster.replica import ReplicaOptions
        from backend.cluster.running import ClusterOptions, num_journal_bytes, running

        config = EngineConfig(num_slots=NUM_TALKERS)
        replica = ReplicaOptions("embedded", "cpu", None, 16, config, ServingOptions())
        port = free_port()
        options = ClusterOptions(replica, 2, 2, "127.0.0.1", port, cpus=0.5, gpus=0)
        open_now.enter_context(running(options))
        address = f"127.0.0.1:{port}"
        before = num_journal_bytes()
        together = asyncio.run(_delays(address))
        per_minute = (num_journal_bytes() - before) / NUM_TALKERS / MEASURED_SECONDS * 60
        gone_on = asyncio.run(_kill(address, num_kills))
    print("\nFrom a chunk's last sample to what is told of its decision, 16 talkers, ms:")
    for name, delays in (("one process", alone), ("two replicas", together)):
        p50, p95 = percentiles([1000 * delay for delay in delays])
        print(f"{name:<18}{p50:>8.1f}{p95:>8.1f}")
    print(f"journal, bytes a minute of one conversation: {per_minute:,.0f}")
    p50, p95 = percentiles(gone_on)
    print(f"seconds to go on after a kill, {len(gone_on)} kills: p50 {p50:.2f}, p95 {p95:.2f}")


async def _delays(address: str) -> list[float]:
    silence = np.zeros(0, np.float32)
    talkers = [ClusterTalker(address, silence) for _ in range(NUM_TALKERS)]
    for talker in talkers:
        await asyncio.wait_for(talker.is_begun.wait(), PATIENCE_SECONDS)

    async def talk(talker: ClusterTalker) -> None:
        await asyncio.sleep(random.random() * CHUNK_SECONDS)
        await talker.talk(round(MEASURED_SECONDS / CHUNK_SECONDS))

    await asyncio.gather(*(talk(talker) for talker in talkers))
    for talker in talkers:
        await talker.leave()
    return [delay for talker in talkers for delay in talker.delays]


async def _kill(address: str, num_kills: int) -> list[float]:
    """Seconds until all of the conversations of a replica that was killed have gone on."""
    silence = np.zeros(0, np.float32)
    talkers = [ClusterTalker(address, silence) for _ in range(NUM_IN_A_KILL)]
    talking = [asyncio.create_task(talker.talk(10**6)) for talker in talkers]
    taken: list[float] = []
    for _ in range(num_kills):
        two = await both_replicas(address)
        num_resumed = [talker.num_resumed for talker in talkers]
        victim = max(two, key=lambda replica: replica["sessions"])
        os.kill(victim["pid"], signal.SIGKILL)
        began = time.monotonic()
        await asyncio.sleep(0)
        num_moved = victim["sessions"]
        while sum(t.num_resumed > n for t, n in zip(talkers, num_resumed, strict=True)) < num_moved:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise BenchError("conversations of a killed replica have not gone on")
            await asyncio.sleep(0.01)
        taken.append(time.monotonic() - began)
        for talker in talkers:
            if talker.numbers != list(range(1, len(talker.numbers) + 1)):
                raise BenchError("messages were lost, or came twice")
        await asyncio.sleep(random.random())
    for task in talking:
        task.cancel()
    for talker in talkers:
        await talker.leave()
    return taken
