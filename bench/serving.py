"""A server of a measurement's own, and clients that talk with it as pages do."""

import base64
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import aiohttp

from backend.audio import Samples, float_to_pcm16
from backend.config import CHUNK_SECONDS, SAMPLE_RATE_HZ
from bench.errors import BenchError

REPOSITORY = Path(__file__).parents[1]
START_SECONDS = 120.0
OFFLINE_VOICE = "espeak:en-us"
EVENTS_PER_ACK = 32
"""As pages acknowledge them."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs."""

    address: str
    """`host:port`."""
    process_id: int


@contextmanager
def server(
    *options: str,
    folder: Path = REPOSITORY,
    log: TextIO | None = None,
    program: Sequence[str] = ("app.py",),
) -> Iterator[Served]:
    """`app.py` of `folder` on a free port, as its users start it, while the block runs.

    Args:
        options: of the command.
        folder: of the repository.
        log: where its log goes; None for ours.
        program: what is started.

    Raises:
        BenchError: it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = [sys.executable, *program, "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=folder, stderr=log)
    try:
        _wait_for(address, process)
        yield Served(address, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://{address}/health").close()
        except OSError:
            # Also of one that hangs up while it starts.
            time.sleep(0.2)
        else:
            return
    raise BenchError("the server did not start")


def health(served: Served) -> dict[str, Any]:
    """What a server says of itself."""
    with urllib.request.urlopen(f"http://{served.address}/health") as answer:
        told: dict[str, Any] = json.load(answer)
    return told


@dataclass(frozen=True, slots=True)
class Decided:
    """What a server tells of a chunk."""

    chunk: int
    """Of those that were sent, from 0."""
    step_milliseconds: float
    """The model's time for hearing it."""


class Caller:
    """One conversation with a server."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection

    async def ask(self, event_type: str, **fields: object) -> None:
        """Send an event."""
        await self._connection.send_json({"type": event_type, **fields})

    async def send(self, event: str) -> None:
        """Send an event that was encoded before."""
        await self._connection.send_str(event)

    async def say(self, chunk: Samples) -> None:
        """Send a chunk `[6400]`."""
        audio = base64.b64encode(float_to_pcm16(chunk)).decode()
        await self.ask("input_audio_buffer.append", audio=audio)

    async def until(self, event_type: str) -> dict[str, Any]:
        """The next event of a type; those before it are passed over.

        Raises:
            BenchError: the server tells of an error, or ends the conversation.
        """
        async for event in self._events():
            if event["type"] == event_type:
                return event
        raise BenchError("the server ended the conversation")

    async def decisions(self, count: int) -> AsyncIterator[Decided]:
        """The first `count` decisions, as they come.

        Raises:
            BenchError: the server tells of an error, or ends the conversation.
        """
        num_decided = acknowledged = 0
        async for event in self._events():
            if event["type"] not in ("response.listen", "response.speak"):
                continue
            metadata = event.get("metadata") or event["response"]["metadata"]
            chunk = round(metadata["seconds"] / CHUNK_SECONDS) - 1
            yield Decided(chunk, metadata["milliseconds"])
            num_decided += 1
            if num_decided == count:
                return
            if (number := event["server_event_seq"]) >= acknowledged + EVENTS_PER_ACK:
                acknowledged = number
                await self.ask("session.event_ack", server_event_seq=number)
        raise BenchError("the server ended the conversation")

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        async for message in self._connection:
            event = json.loads(message.data)
            if event["type"] == "error":
                raise BenchError(f"the server says: {event['error']['message']}")
            yield event


@asynccontextmanager
async def calling(address: str, **query: str) -> AsyncIterator[Caller]:
    """A conversation with the server at `address`, while the block runs; may wait for its turn.

    Raises:
        BenchError: the server refuses it.
    """
    asked = {"duplex": "1", "input_rate": str(SAMPLE_RATE_HZ), **query}
    async with (
        aiohttp.ClientSession(f"http://{address}") as http,
        http.ws_connect("/v1/realtime", params=asked, max_msg_size=0) as connection,
    ):
        caller = Caller(connection)
        await caller.until("session.created")
        yield caller
