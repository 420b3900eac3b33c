"""People who talk while strangers do what they can against the server: `make soak`.

Each has one recording, says it again and again, and checks that every reply is the one to it.
"""

import asyncio
import base64
import itertools
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np
import psutil

from backend.audio import Samples, float_to_pcm16, read_audio
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED
from backend.recordings.reader import SessionFile
from backend.recordings.replay import Verifier
from bench.counted_server import TASKS
from bench.errors import BenchError
from bench.hostile import Strength, harass
from bench.samples import SAMPLES_FOLDER
from bench.serving import Served, health, server

NUM_TALKERS = 8
NUM_PLACES = 12
ACCESS_KEY = "f/0kXzq+3Jr8b7WkYc1S6Zt2="
PAUSE_CHUNKS = 8
"""Between two utterances: replies take their time."""
QUIET_SHARE = 0.2
"""Of the time, before strangers come."""
MOST_QUIET_SECONDS = 180.0
PATIENCE_SECONDS = 30.0
"""For the last decisions and replies, and until all places are free."""
MAX_LATENESS = 1.5
"""How much later 95 of 100 decisions may be than before the strangers came."""
WARM_MINUTES = 5
"""Until all contexts are full and every library is loaded: what grows later is a leak."""
TRACEBACK = "Traceback (most recent call last)"


@dataclass(slots=True)
class Talker:
    """One who talks."""

    number: int
    reply: str
    """That its recording is answered with."""
    audio: Samples
    late_ms: dict[int, float] = field(default_factory=dict)
    """By chunk, from the end of its sound to its decision."""
    replies: list[str] = field(default_factory=list)
    num_sent: int = 0
    recording_id: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Each has an address of its own, as a trusted proxy tells."""
        return {
            "Authorization": f"Bearer {ACCESS_KEY}",
            "X-Forwarded-For": f"192.0.2.{self.number + 1}",
        }

    @property
    def wrong_replies(self) -> list[str]:
        """Those to something else."""
        return [reply for reply in self.replies if reply != self.reply]


@dataclass(frozen=True, slots=True)
class InUse:
    """What a server has in use."""

    sessions: int
    waiting: int
    descriptors: int
    tasks: str
    """Of its event loop, as its log tells."""
    threads: int
    processes: int
    """Of its own, beside it."""
    resident_mib: float

    @classmethod
    def at(cls, served: Served, log: Path | None) -> "InUse":
        """Now."""
        told, process = health(served), psutil.Process(served.process_id)
        return cls(
            told["sessions"],
            told["waiting"],
            process.num_fds(),
            "?" if log is None else _num_tasks(served, log),
            process.num_threads(),
            len(process.children(recursive=True)),
            process.memory_info().rss / 2**20,
        )


@dataclass(frozen=True, slots=True)
class SoakFigures:
    """What came of it."""

    talkers: Sequence[Talker]
    quiet_chunks: int
    """Of each talker, before the strangers came."""
    told: Mapping[str, int]
    """What they did and were told."""
    looks: Sequence[InUse]
    """At the beginning, after each minute, and when all had gone."""
    num_verified: int
    """Recordings of talkers that repeat token by token."""

    def late_ms(self, *, is_quiet: bool) -> list[float]:
        """Before the strangers came, or since."""
        return [
            late
            for talker in self.talkers
            for chunk, late in talker.late_ms.items()
            if (chunk < self.quiet_chunks) is is_quiet
        ]


def talkers(count: int = NUM_TALKERS) -> list[Talker]:
    """Those with the first recordings that are answered, each its own."""
    samples = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    answered = [sample for sample in samples if sample["reply"]]
    chosen = []
    for number, sample in enumerate(answered[:count]):
        audio = read_audio(SAMPLES_FOLDER / sample["file"])
        num_chunks = -(-len(audio) // CHUNK_SAMPLES) + PAUSE_CHUNKS
        padded = np.zeros(num_chunks * CHUNK_SAMPLES, np.float32)
        padded[: len(audio)] = audio
        chosen.append(Talker(number, sample["reply"], padded))
    return chosen


def soak(
    served: Served,
    seconds: float,
    who: Sequence[Talker],
    checkpoint: Checkpoint,
    folder: Path,
    strength: Strength,
    log: Path | None = None,
) -> SoakFigures:
    """Have people talk for so long, and strangers come after a part of it.

    Args:
        served: the server; it trusts this machine as a proxy, and has `ACCESS_KEY`.
        seconds: in all.
        who: talks.
        checkpoint: the server's.
        folder: for their recordings.
        strength: of the strangers.
        log: the server's, if it is a `counted_server`.

    Raises:
        BenchError: a talker is refused or told of an error, or the server is not empty afterwards.
    """
    return asyncio.run(_soak(served, seconds, who, checkpoint, folder, strength, log))


async def _soak(
    served: Served,
    seconds: float,
    who: Sequence[Talker],
    checkpoint: Checkpoint,
    folder: Path,
    strength: Strength,
    log: Path | None = None,
) -> SoakFigures:
    quiet_seconds = min(QUIET_SHARE * seconds, MOST_QUIET_SECONDS)
    looks = [InUse.at(served, log)]
    with _beside() as process:
        async with asyncio.TaskGroup() as tasks:
            for talker in who:
                tasks.create_task(_talk(served.address, talker, seconds))
            watching = tasks.create_task(_watch(served, looks, log))
            await asyncio.sleep(quiet_seconds)
            told = await asyncio.get_running_loop().run_in_executor(
                process, harass, served.address, ACCESS_KEY, seconds - quiet_seconds, strength
            )
            watching.cancel()
        num_verified = 0
        for talker in who:
            path = folder / f"{talker.number}.aisession"
            await _take_recording(served.address, talker, path)
            num_verified += await asyncio.to_thread(_repeats, path, checkpoint)
    await _until_empty(served)
    looks.append(await asyncio.to_thread(InUse.at, served, log))
    return SoakFigures(who, int(quiet_seconds / CHUNK_SECONDS), told, looks, num_verified)


@contextmanager
def _beside() -> Iterator[ProcessPoolExecutor]:
    """A process for the strangers, whose work is not the talkers'."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        yield process


def _num_tasks(served: Served, log: Path) -> str:
    before = log.read_text("utf-8").count(TASKS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    os.kill(served.process_id, signal.SIGUSR1)
    while time.monotonic() < deadline:
        told = log.read_text("utf-8").split(TASKS)
        if len(told) > before + 1 and "\n" in told[-1]:
            return told[-1].split()[0]
        time.sleep(0.05)
    raise BenchError("the server's event loop does not run")


async def _watch(served: Served, looks: list[InUse], log: Path | None) -> None:
    while True:
        await asyncio.sleep(60)
        looks.append(await asyncio.to_thread(InUse.at, served, log))
        show_look(len(looks) - 1, looks[-1])


async def _talk(address: str, talker: Talker, seconds: float) -> None:
    asked = {"duplex": "1", "input_rate": str(SAMPLE_RATE_HZ), "record": "1"}
    num_chunks = max(len(talker.audio) // CHUNK_SAMPLES, round(seconds / CHUNK_SECONDS))
    async with (
        aiohttp.ClientSession(f"http://{address}", headers=talker.headers) as http,
        http.ws_connect("/v1/realtime", params=asked, max_msg_size=0) as socket,
    ):
        began = time.perf_counter()
        hearing = asyncio.create_task(_hear(socket, talker, num_chunks, began))
        chunks = itertools.cycle(talker.audio.reshape(-1, CHUNK_SAMPLES))
        for number, chunk in enumerate(itertools.islice(chunks, num_chunks), start=1):
            await asyncio.sleep(began + number * CHUNK_SECONDS - time.perf_counter())
            audio = base64.b64encode(float_to_pcm16(chunk)).decode()
            await socket.send_json({"type": "input_audio_buffer.append", "audio": audio})
            talker.num_sent += 1
        await hearing
        await socket.send_json({"type": "session.close"})


async def _hear(
    socket: aiohttp.ClientWebSocketResponse, talker: Talker, num_chunks: int, began: float
) -> None:
    """Take what a talker is told until all that it said is decided and answered."""
    is_replying = False
    num_acknowledged = 0
    async for message in socket:
        event: dict[str, Any] = json.loads(message.data)
        match event["type"]:
            case "error":
                raise BenchError(f"a talker was told: {event['error']['message']}")
            case "recording.started":
                talker.recording_id = event["recording_id"]
            case "response.listen" | "response.speak" as decision:
                is_replying = is_replying or decision == "response.speak"
                told = event.get("metadata") or event["response"]["metadata"]
                chunk = round(told["seconds"] / CHUNK_SECONDS) - 1
                due_at = began + (chunk + 1) * CHUNK_SECONDS
                talker.late_ms[chunk] = (time.perf_counter() - due_at) * 1000
            case "response.done":
                is_replying = False
                parts = [part for item in event["response"]["output"] for part in item["content"]]
                talker.replies.append("".join(part.get("text") or "" for part in parts))
        if (number := event.get("server_event_seq", 0)) >= num_acknowledged + 32:
            num_acknowledged = number
            await socket.send_json({"type": "session.event_ack", "server_event_seq": number})
        if len(talker.late_ms) == num_chunks and not is_replying:
            return
    raise BenchError("the server ended a talker's conversation")


async def _take_recording(address: str, talker: Talker, path: Path) -> None:
    """Once it is packed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with aiohttp.ClientSession(f"http://{address}", headers=talker.headers) as http:
        where = f"/v1/recordings/{talker.recording_id}"
        while True:
            async with http.get(where) as answer:
                if not (await answer.json()).get("is_live", True):
                    break
            if time.monotonic() > deadline:
                raise BenchError("a recording is not packed")
            await asyncio.sleep(0.5)
        async with http.get(f"{where}/file") as answer:
            content = await answer.read()
    await asyncio.to_thread(path.write_bytes, content)


def _repeats(path: Path, checkpoint: Checkpoint) -> bool:
    with SessionFile(path) as file:
        verifier = Verifier(checkpoint, file)
        for _ in verifier.verify():
            pass
        return verifier.outcome.is_equal


async def _until_empty(served: Served) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS + 60.0
    while (told := await asyncio.to_thread(health, served))["sessions"] or told["waiting"]:
        if time.monotonic() > deadline:
            raise BenchError(f"places are still taken: {told['sessions']}")
        await asyncio.sleep(0.5)


def report_soak(minutes: float) -> None:
    """Print what people get while strangers do what they can.

    Raises:
        BenchError: what is promised does not hold.
    """
    print(f"{NUM_TALKERS} talkers for {minutes:g} minutes, embedded; strangers come meanwhile")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log"
        options = ("--sessions", str(NUM_PLACES), "--recordings", str(folder / "recordings"))
        access = ("--access-key", ACCESS_KEY, "--trusted-proxies", "127.0.0.1")
        with (
            log.open("w", encoding="utf-8") as file,
            server(*options, *access, log=file, program=("-m", "bench.counted_server")) as served,
        ):
            checkpoint = load_checkpoint(EMBEDDED, device="cpu")
            figures = soak(served, 60 * minutes, talkers(), checkpoint, folder, Strength(), log)
        show_soak(figures)
        told = log.read_text("utf-8")
        faults = faults_of(figures) + [TRACEBACK] * told.count(TRACEBACK)
        if (before := p95(figures, is_quiet=True)) * MAX_LATENESS < p95(figures, is_quiet=False):
            faults.append(f"95 of 100 decisions came within {before:.0f} ms before")
        if faults:
            raise BenchError("; ".join(faults) + f"\nthe server's log:\n{told[-4000:]}")


def growth_of(looks: Sequence[InUse]) -> float | None:
    """How much more memory was in use in the last third of the time after warming up.

    Args:
        looks: at the beginning, after each minute, and when all had gone.

    Returns:
        a share of that in the first third; None where the time was too short to tell.
    """
    warm = [look.resident_mib for look in looks[WARM_MINUTES:-1]]
    if not (count := len(warm) // 3):
        return None
    return median(warm[-count:]) / median(warm[:count]) - 1


def p95(figures: SoakFigures, *, is_quiet: bool) -> float:
    """How late 95 of 100 decisions are at most, in milliseconds."""
    return float(np.percentile(figures.late_ms(is_quiet=is_quiet), 95))


def faults_of(figures: SoakFigures) -> list[str]:
    """What is not as promised, times apart."""
    faults = []
    for talker in figures.talkers:
        if len(talker.late_ms) != talker.num_sent:
            faults.append(f"{talker.num_sent} chunks were sent, {len(talker.late_ms)} decided")
        if talker.wrong_replies or not talker.replies:
            faults.append(f"talker {talker.number} was told {talker.wrong_replies or 'nothing'}")
    if figures.num_verified != len(figures.talkers):
        faults.append(f"{figures.num_verified} recordings of {len(figures.talkers)} repeat")
    if failures := [
        f"{told} ({n})" for told, n in figures.told.items() if told.startswith("HTTP 500")
    ]:
        faults.append(", ".join(failures))
    return faults


def show_look(minute: int, look: InUse) -> None:
    """Print what is in use."""
    print(
        f"minute {minute:>3}: {look.sessions} places, {look.waiting} waiting, "
        f"{look.descriptors} descriptors, {look.tasks} tasks, {look.threads} threads, "
        f"{look.processes} processes, {look.resident_mib:.0f} MiB",
        flush=True,
    )


def show_soak(figures: SoakFigures) -> None:
    """Print all of it."""
    show_look(len(figures.looks) - 1, figures.looks[-1])
    if (growth := growth_of(figures.looks)) is not None:
        print(f"memory grew by {100 * growth:.1f} % after minute {WARM_MINUTES}")
    sent = sum(talker.num_sent for talker in figures.talkers)
    decided = sum(len(talker.late_ms) for talker in figures.talkers)
    replies = sum(len(talker.replies) for talker in figures.talkers)
    wrong = [reply for talker in figures.talkers for reply in talker.wrong_replies]
    print(
        f"{sent} chunks admitted, {decided} decided; {replies} replies, "
        f"{len(wrong)} of them wrong {wrong[:5]}"
    )
    for name, is_quiet in (("before", True), ("with strangers", False)):
        if not (all_late := figures.late_ms(is_quiet=is_quiet)):
            continue
        late = np.percentile(all_late, [50, 95, 99, 99.9, 100])
        print(
            f"{name:<16}"
            + " ".join(f"{ms:>8.0f} ms" for ms in late)
            + "   (p50 p95 p99 p99.9 most)"
        )
    print(f"{figures.num_verified} recordings verified of {len(figures.talkers)}")
    print(", ".join(f"{told} ({count})" for told, count in sorted(figures.told.items())) + "\n")
