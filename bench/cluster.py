"""What a cluster costs and how soon it goes on when a replica is killed."""

import asyncio
import json
import os
import random
import signal
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import numpy as np

from backend.audio import Samples, float_to_pcm16
from backend.cli.cluster import free_port, prepare_ray
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ, EngineConfig
from backend.journal import RETRY_SECONDS
from backend.serving.process import ServingOptions
from bench import soak
from bench.errors import BenchError
from bench.serving import server
from bench.wires import percentiles
from client.address import ServerAddress
from client.wire import RealtimeSocket, WireEvent

if TYPE_CHECKING:
    from backend.cluster.running import ClusterOptions

NUM_TALKERS = 16
NUM_KILLS = 20
NUM_IN_A_KILL = 8
MEASURED_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
START_SECONDS = 180.0
"""For a replica, on a busy machine."""
PROXY_SECONDS = 2.0
PIECE_SAMPLES = CHUNK_SAMPLES // 4
SILENCE = np.zeros(CHUNK_SAMPLES, np.float32)


class ClusterTalker:
    """A client that talks over as many sockets as it takes.

    Args:
        address: of the server, `host:port`.
        speech: what it says `[n]` at 16 kHz, before it goes on in silence.
    """

    def __init__(self, address: str, speech: Samples = SILENCE) -> None:
        self.told: list[WireEvent] = []
        self.num_resumed = 0
        self.delays: list[float] = []
        """Seconds from a chunk's last sample to what is told of its decision."""
        self.round_trips: list[float] = []
        """Seconds from a heartbeat to its answer."""
        self._news = asyncio.Event()
        self._speech = speech
        self._num_sent = 0
        self._sent_at: dict[int, float] = {}
        self._beaten_at: float | None = None
        self._socket = RealtimeSocket(ServerAddress.parse(address), self)
        self._running = asyncio.create_task(self._socket.run())
        self._running.add_done_callback(lambda _: self._news.set())

    # Of a listener.

    def receive(self, event: WireEvent) -> None:
        """An event of the server's; each comes once."""
        self.told.append(event)
        if event["type"] == "session.heartbeat_ack" and self._beaten_at is not None:
            self.round_trips.append(time.monotonic() - self._beaten_at)
            self._beaten_at = None
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

    async def talk(self, num_chunks: int = 10**6) -> None:
        """Say the next chunks, again and again from the beginning."""
        for _ in range(num_chunks):
            self._send_up_to(self._num_sent + CHUNK_SAMPLES)
            if self._socket.is_attached and self._beaten_at is None:
                self._beaten_at = time.monotonic()
                self._socket.send({"type": "session.heartbeat"})
            await asyncio.sleep(CHUNK_SECONDS)

    async def until(self, is_so: Callable[[Self], bool]) -> None:
        """Wait for what is told.

        Raises:
            BenchError: it does not come.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not is_so(self):
                    if self._running.done():
                        raise BenchError(f"a conversation ended: {self._running.exception()}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise BenchError(
                f"waited in vain: {len(self.chunks)} of {self._num_sent // CHUNK_SAMPLES} chunks "
                f"are decided on, {self.num_resumed} times resumed, said {self.replies[-3:]}"
            ) from error

    async def until_told(self, event_type: str) -> None:
        """Wait for an event of this type, if none has come."""
        await self.until(lambda talker: event_type in talker.types)

    async def until_said(self, num_replies: int) -> None:
        """Wait for so many replies from the beginning on."""
        await self.until(lambda talker: len(talker.replies) >= num_replies)

    @property
    def types(self) -> set[str]:
        """Of what was told."""
        return {event["type"] for event in self.told}

    @property
    def replies(self) -> list[str]:
        """All that were said to their end."""
        ends = [event for event in self.told if event["type"] == "response.output_text.done"]
        return [event["text"] for event in ends]

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

    def check(self, reply: str) -> None:
        """Nothing was lost and nothing came twice; all replies are `reply`, told piece by piece.

        Raises:
            BenchError: it is otherwise.
        """
        pieces: dict[str, str] = defaultdict(str)
        for event in self.told:
            match event["type"]:
                case "response.output_text.delta":
                    pieces[event["response_id"]] += event["delta"]
                case "response.output_text.done" if event["text"] != pieces[event["response_id"]]:
                    raise BenchError(f"{pieces[event['response_id']]!r} was told of {event}")
        if self.numbers != list(range(1, len(self.numbers) + 1)):
            raise BenchError(f"messages were lost, or came twice: {self.numbers}")
        if self.chunks != list(range(len(self.chunks))):
            raise BenchError(f"chunks were lost, or heard twice: {self.chunks}")
        if wrong := {said for said in self.replies if said != reply}:
            raise BenchError(f"what is answered with {reply!r} was answered with {wrong}")

    def _send_up_to(self, end: int) -> None:
        for start in range(self._num_sent, end, PIECE_SAMPLES):
            at = np.arange(start, min(start + PIECE_SAMPLES, end)) % len(self._speech)
            self._socket.send_audio(float_to_pcm16(self._speech[at]))
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


async def two_replicas(
    address: str, num_sessions: int, pids: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Both of them, other processes than `pids`, once they have so many conversations and serve.

    Raises:
        BenchError: they are not there.
    """
    from backend.cluster.running import num_running

    deadline = time.monotonic() + START_SECONDS
    told: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        told = [one for one in await asyncio.to_thread(replicas, address) if not one["leaving"]]
        has_all = sum(one["sessions"] for one in told) == num_sessions
        is_new = not {one["pid"] for one in told} & set(pids)
        if len(told) == 2 and has_all and is_new and await asyncio.to_thread(num_running) == 2:
            # The proxy hears of them at the same time.
            await asyncio.sleep(PROXY_SECONDS)
            return told
        await asyncio.sleep(0.5)
    raise BenchError(f"there are not two replicas with {num_sessions} conversations: {told}")


def report_cluster(num_kills: int = NUM_KILLS) -> None:
    """Print the figures of a cluster of two replicas, beside those of one process."""
    with server("--sessions", str(NUM_TALKERS), "--no-recordings") as served:
        alone = asyncio.run(_talk(served.address))
    with tempfile.TemporaryDirectory(prefix="ai-", dir="/tmp") as folder, ExitStack() as open_now:
        prepare_ray(Path(folder))
        from backend.cluster.replica import ReplicaOptions
        from backend.cluster.running import ClusterOptions, num_journal_bytes, running

        config = EngineConfig(num_slots=NUM_TALKERS)
        replica = ReplicaOptions("embedded", "cpu", None, 16, config, ServingOptions())
        port = free_port()
        options = ClusterOptions(replica, 2, 2, "127.0.0.1", port, cpus=0.5, gpus=0)
        began = time.monotonic()
        open_now.enter_context(running(options))
        address = f"127.0.0.1:{port}"
        asyncio.run(two_replicas(address, 0))
        print(f"a cluster of two replicas was there after {time.monotonic() - began:.0f} s")
        before = num_journal_bytes()
        together = asyncio.run(_talk(address))
        per_minute = (num_journal_bytes() - before) / NUM_TALKERS / MEASURED_SECONDS * 60
        _show_beside(alone, together)
        print(f"journal, bytes a minute of one conversation: {per_minute:,.0f}")
        asyncio.run(_break(options, address, num_kills))


def _show_beside(alone: list[ClusterTalker], both: list[ClusterTalker]) -> None:
    print(f"\n{NUM_TALKERS} talkers, ms:{'one process':>38}{'two replicas':>21}")
    print(f"{'':<32}{'p50':>13}{'p95':>8}{'p50':>13}{'p95':>8}")
    _show_row("a heartbeat and its answer", [[t.round_trips for t in of] for of in (alone, both)])
    _show_row("a chunk's end to its decision", [[t.delays for t in of] for of in (alone, both)])


def _show_row(name: str, measured: list[list[list[float]]]) -> None:
    """One line of figures: of each way to serve, of each talker."""
    row = f"{name:<32}"
    for talkers in measured:
        p50, p95 = percentiles([1000 * seconds for talker in talkers for seconds in talker])
        row += f"{p50:>13.1f}{p95:>8.1f}"
    print(row)


async def _talk(address: str) -> list[ClusterTalker]:
    """Conversations that have gone on for a while."""
    talkers = [ClusterTalker(address) for _ in range(NUM_TALKERS)]
    for talker in talkers:
        await talker.until_told("session.created")

    async def talk(talker: ClusterTalker) -> None:
        await asyncio.sleep(random.random() * CHUNK_SECONDS)
        await talker.talk(round(MEASURED_SECONDS / CHUNK_SECONDS))

    await asyncio.gather(*(talk(talker) for talker in talkers))
    for talker in talkers:
        await talker.leave()
    return talkers


async def _break(options: "ClusterOptions", address: str, num_kills: int) -> None:
    """Do to a cluster in the middle of conversations what can happen to one.

    Raises:
        BenchError: a conversation has not gone on as if nothing had happened.
    """
    words = soak.talkers(NUM_IN_A_KILL)
    talkers = [ClusterTalker(address, word.audio) for word in words]
    for talker in talkers:
        await talker.until_told("session.created")
    talking = [asyncio.create_task(talker.talk()) for talker in talkers]

    async def gone_on(what: str) -> None:
        """All have been answered since, and nothing was lost."""
        num_replies = [len(talker.replies) for talker in talkers]
        for talker, word, num in zip(talkers, words, num_replies, strict=True):
            await talker.until_said(num + 2)
            talker.check(word.reply)
        print(f"{what}: {len(talkers)} conversations went on, nothing lost, nothing twice")

    spread = [replica["sessions"] for replica in await two_replicas(address, len(talkers))]
    print(f"\nconversations of two replicas: {spread}")
    taken = [await _kill(address, talkers) for _ in range(num_kills)]
    await gone_on(f"{num_kills} kills")
    print(f"seconds to go on after a kill: {', '.join(f'{seconds:.1f}' for seconds in taken)}")
    if num_kills > 1:
        p50, p95 = percentiles(taken)
        print(f"p50 {p50:.1f}, p95 {p95:.1f}")
    await _update(options, address, talkers)
    await gone_on("a rolling update")
    await _lose_journal()
    await gone_on("the journal's death")
    await _kill(address, talkers)
    await gone_on("a kill after the journal's restart")
    for task in talking:
        task.cancel()
    for talker in talkers:
        await talker.leave()
    await _queue(address, 2 * options.replica.config.num_slots)


async def _kill(address: str, talkers: Sequence[ClusterTalker]) -> float:
    """Seconds until all of the conversations of a replica that is killed have gone on."""
    two = await two_replicas(address, len(talkers))
    before = [talker.num_resumed for talker in talkers]
    victim = max(two, key=lambda replica: replica["sessions"])
    began = time.monotonic()
    os.kill(victim["pid"], signal.SIGKILL)
    while True:
        pairs = zip(talkers, before, strict=True)
        if sum(talker.num_resumed > num for talker, num in pairs) == victim["sessions"]:
            return time.monotonic() - began
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise BenchError("conversations of a killed replica have not gone on")
        await asyncio.sleep(0.01)


async def _update(
    options: "ClusterOptions", address: str, talkers: Sequence[ClusterTalker]
) -> None:
    """Put other replicas in the place of all, while pages are asked for."""
    from backend.cluster.running import deploy

    before = await two_replicas(address, len(talkers))
    serving = replace(options.replica.serving, idle_minutes=20)
    other = replace(options, replica=replace(options.replica, serving=serving))
    updating = asyncio.create_task(asyncio.to_thread(deploy, other))
    answers: Counter[int] = Counter()
    async with aiohttp.ClientSession() as client:
        while not updating.done():
            async with client.get(f"http://{address}/") as answer:
                answers[answer.status] += 1
            await asyncio.sleep(0.1)
    await updating
    await two_replicas(address, len(talkers), [replica["pid"] for replica in before])
    print(f"answers to pages during a rolling update: {dict(answers)}")
    if set(answers) != {200}:
        raise BenchError("some requests were not answered")


async def _lose_journal() -> None:
    """End the journal's process, and wait until another has all conversations."""
    from backend.cluster.running import kill_journal, num_journal_bytes

    began = time.monotonic()
    await asyncio.to_thread(kill_journal)
    while not await asyncio.to_thread(num_journal_bytes):
        if time.monotonic() - began > START_SECONDS:
            raise BenchError("there is no other journal")
        await asyncio.sleep(0.5)
    print(f"another journal was there after {time.monotonic() - began:.0f} s")
    await asyncio.sleep(2 * RETRY_SECONDS)


async def _queue(address: str, num_places: int) -> None:
    """Fill all places, and have two more wait in one line."""
    inside = [ClusterTalker(address) for _ in range(num_places)]
    for talker in inside:
        await talker.until_told("session.created")
    waiting = []
    for position in (1, 2):
        waiting.append(ClusterTalker(address))
        await waiting[-1].until_told("session.queued")
        told = waiting[-1].told[-1]
        print(
            f"with {num_places} of {num_places} places taken, one more waits at {told['position']}"
        )
        if told["position"] != position:
            raise BenchError(f"this is to be place {position} of the line: {told}")
    for leaver, waiter in zip(inside[:2], waiting, strict=True):
        await leaver.leave()
        await waiter.until_told("session.created")
    for talker in (*inside[2:], *waiting):
        await talker.leave()
