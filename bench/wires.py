"""What each wire adds to a chunk: over a real socket, against the engine alone."""

import asyncio
import base64
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from backend.config import CHUNK_SAMPLES, EngineConfig
from backend.engine import Engine
from backend.engine.engine import EngineSession
from backend.events import Decision, Event
from backend.model.checkpoint import load_checkpoint
from backend.model.layout import EMBEDDED
from bench.serving import server

REST_SECONDS = 0.02
"""After each chunk: a client in real time never takes more than its share of the event loop."""
SILENCE = np.zeros(CHUNK_SAMPLES, np.float32)
PCM = bytes(2 * CHUNK_SAMPLES)

Message = str | bytes
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """A wire that tells of every decision."""

    name: str
    path: str
    first: Fields | None
    """What is sent before any sound."""
    chunk: Message
    """0.4 s of silence."""
    is_decision: Callable[[Fields], bool]


def _event(event_type: str, **fields: Any) -> str:
    return json.dumps({"type": event_type, **fields})


_SPEAK = {"type": "predicate", "name": "speak", "instructions": "Should you speak now?"}
_LIVE = {
    "model": "any",
    "audio": {"format": {"type": "audio/pcm", "rate": 16_000}},
    "delegation": {"type": "decisions", "decisions": {"model": "any", "questions": [_SPEAK]}},
}
_BASE64 = base64.b64encode(PCM).decode()
WIRES = (
    Measured(
        "Realtime, duplex",
        "/v1/realtime?duplex=1&input_rate=16000",
        None,
        _event("input_audio_buffer.append", audio=_BASE64),
        lambda event: event["type"] == "response.listen",
    ),
    Measured(
        "Live",
        "/v1/live/sessions",
        {"type": "session.start", "session": _LIVE},
        _event("session.input_audio.append", audio=_BASE64),
        lambda event: event["type"] == "decision.event",
    ),
    Measured("decisions", "/v1/decisions", None, PCM, lambda line: "decision" in line),
)


def report_wires(num_chunks: int = 300) -> None:
    """Print what a chunk takes from its sending to its decision, on each wire and without one."""
    with server("--sessions", str(len(WIRES))) as served:
        show_wires(*measure_wires(served.address, num_chunks))


def measure_wires(address: str, num_chunks: int) -> tuple[list[float], dict[str, list[float]]]:
    """Milliseconds from a chunk to its decision: of the engine alone, and over each wire.

    In turns, so that what else the machine does burdens all alike.
    """
    with ExitStack() as open_now, asyncio.Runner() as runner:
        engine = open_now.enter_context(
            Engine(load_checkpoint(EMBEDDED), EngineConfig(num_slots=1))
        )
        session = runner.run(engine.open_session())
        events = session.events()
        talks = {wire.name: open_now.enter_context(_talk(address, wire)) for wire in WIRES}
        alone: list[float] = []
        times: dict[str, list[float]] = {name: [] for name in talks}
        for _ in range(num_chunks):
            alone.append(_timed(lambda: runner.run(_decide(session, events))))
            for name, talk in talks.items():
                times[name].append(_timed(talk))
        runner.run(session.close())
    return alone, times


@contextmanager
def _talk(address: str, wire: Measured) -> Iterator[Callable[[], None]]:
    """What sends a chunk and reads until its decision."""
    with connect(f"ws://{address}{wire.path}") as socket:
        if wire.first is not None:
            socket.send(json.dumps(wire.first))
        messages = _messages(socket)
        # What is told first is read first.
        next(messages)

        def talk() -> None:
            socket.send(wire.chunk)
            next(message for message in messages if wire.is_decision(message))

        yield talk


async def _decide(session: EngineSession, events: AsyncIterator[Event]) -> None:
    await session.feed(SILENCE)
    while not isinstance(await anext(events), Decision):
        pass


def _timed(work: Callable[[], None]) -> float:
    """Milliseconds that it takes; a client in real time rests after it."""
    began_at = time.perf_counter()
    work()
    milliseconds = (time.perf_counter() - began_at) * 1000
    time.sleep(REST_SECONDS)
    return milliseconds


def show_wires(alone: Sequence[float], times: Mapping[str, Sequence[float]]) -> None:
    """Print the figures; what a wire adds is of chunks that were sent one after another."""
    engine = percentiles(alone)
    print("\nA chunk of 0.4 s, from its sending to its decision, in milliseconds:")
    print(f"{'':<18}{'p50':>8}{'p95':>8}{'more than alone, p50':>24}{'p95':>8}")
    print(f"{'engine alone':<18}{engine[0]:>8.2f}{engine[1]:>8.2f}")
    for name, measured in times.items():
        p50, p95 = percentiles(measured)
        more = percentiles([over - own for over, own in zip(measured, alone, strict=True)])
        print(f"{name:<18}{p50:>8.2f}{p95:>8.2f}{more[0]:>24.2f}{more[1]:>8.2f}")


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """The median, and what nineteen in twenty stay below."""
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def _messages(socket: ClientConnection) -> Iterator[Fields]:
    for message in socket:
        yield json.loads(message)
