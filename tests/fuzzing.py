"""Messages that no client should send, drawn from a seed.

By hand, against a server of its own: `python -m tests.fuzzing 10000`.
"""

import argparse
import base64
import json
import logging
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from backend.wires.live import client_messages as live
from backend.wires.realtime import client_messages as realtime
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving, wait_until_free

Message = str | bytes

LIVE_START = json.dumps({"type": "session.start", "session": {"model": "any"}})
WORDS = (
    "session audio input output format type rate voice instructions item role content text id "
    "event_id delta turn_detection metadata response content_index audio_end_ms played_ms tools "
    "delegation delegation_id decisions questions name model store triggers temperature seed "
    "max_output_tokens output_modalities idle_timeout_ms transcription item_id response_id"
).split()
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, 2**70, "", "x", "\0", "ÿ" * 300, "𝄞", [], {}, [[]], [None],
    "audio/pcm", "audio/pcmu", "user", "system", "message", "input_text", "text", "server_vad",
    16_000, 24_000, {"type": "audio/pcma"}, "realtime", "client", "responses", float("inf"),
)  # fmt: skip
PATHS = (
    "/", "/health", "/v1/models", "/v1/models/x", "/v1/realtime", "/v1/realtime/client_secrets",
    "/v1/live/sessions", "/v1/live/sessions/sess_1/hangup", "/v1/live/sessions/sess_1/content",
    "/v1/live/sessions/sess_1/fork", "/v1/decisions", "/v1/recordings", "/v1/recordings/x",
    "/v1/gallery", "/v1/shared/x", "/samples/x", "/v1/%00", "/v1/" + "a/" * 50, "/%2e%2e/etc",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Surface:
    """A socket that is sent nonsense."""

    name: str
    address: str
    types: tuple[str, ...]
    first: str | None = None


SURFACES = (
    Surface("Realtime", "/v1/realtime", tuple(realtime.MODELS)),
    Surface("Realtime, duplex", "/v1/realtime?duplex=1&binary=1", tuple(realtime.MODELS)),
    Surface("Live", "/v1/live/sessions", tuple(live.MODELS), LIVE_START),
    Surface("decisions", "/v1/decisions", ()),
)


def messages(surface: Surface, seed: int) -> Iterator[Message]:
    """Messages without an end."""
    draw = random.Random(seed)
    while True:
        yield _message(surface, draw)


def requests(seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Method, path and body, without an end."""
    draw = random.Random(seed)
    while True:
        query = draw.choice(["", "?record=1", "?x=" + "y" * 300, "?input_rate=-1"])
        body = _message(SURFACES[0], draw)
        content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        yield draw.choice(METHODS), draw.choice(PATHS) + query, content


def _message(surface: Surface, draw: random.Random) -> Message:
    match draw.randrange(10):
        case 0:
            return draw.randbytes(draw.choice([0, 1, 2, 640, 12_801]))
        case 1:
            return draw.choice(["", "{", "[]", "null", "1", '"x"', "[" * 2000, "{}", '{"type": 1}'])
        case _:
            return json.dumps(_fields(surface, draw))


def _fields(surface: Surface, draw: random.Random) -> dict[str, Any]:
    # One that says farewell ends the conversation: seldom.
    event_type = draw.choice((*surface.types, "unknown.event"))
    if event_type == "session.close" and draw.randrange(20):
        event_type = "session.update"
    fields: dict[str, Any] = {"type": event_type}
    if draw.randrange(2):
        fields["audio"] = base64.b64encode(draw.randbytes(draw.choice([0, 3, 640, 9_600]))).decode()
    if draw.randrange(2):
        fields["session"] = _value(draw, 3)
    for _ in range(draw.randrange(4)):
        fields[draw.choice(WORDS)] = _value(draw, 3)
    return fields


def _value(draw: random.Random, depth: int) -> Any:
    match draw.randrange(4 if depth else 2):
        case 0 | 1:
            return draw.choice(VALUES)
        case 2:
            return [_value(draw, depth - 1) for _ in range(draw.randrange(4))]
        case _:
            return {draw.choice(WORDS): _value(draw, depth - 1) for _ in range(draw.randrange(5))}


class ServerErrors(logging.Handler):
    """Errors that are logged while the block runs, but for those of the client that we are here."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "websockets.client":
            self.told.append(f"{record.name}: {record.getMessage()}")

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


def fuzz_socket(address: str, surface: Surface, number: int, seed: int) -> int:
    """Send so many messages; how many sockets it took."""
    drawn, num_sent, num_sockets = messages(surface, seed), 0, 0
    while num_sent < number:
        num_sockets += 1
        try:
            with connect(f"ws://{address}{surface.address}", max_queue=None) as socket:
                if surface.first is not None:
                    socket.send(surface.first)
                while num_sent < number:
                    num_sent += 1
                    socket.send(next(drawn))
                    _read(socket)
        except ConnectionClosed:
            # It had made too many mistakes, or said farewell.
            pass
    return num_sockets


def _read(socket: ClientConnection) -> None:
    """Take what has come: a client that reads nothing is let go."""
    with suppress(TimeoutError):
        while True:
            socket.recv(timeout=0)


def fuzz_http(address: str, number: int, seed: int) -> dict[int, int]:
    """Send so many requests; how often each status came."""
    statuses: dict[int, int] = {}
    drawn = requests(seed)
    with httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        for _ in range(number):
            method, path, content = next(drawn)
            status = client.request(method, path, content=content).status_code
            statuses[status] = statuses.get(status, 0) + 1
    return statuses


def main(number: int, seed: int) -> None:
    """Send so much to each surface of a server, and see that it is well afterwards."""
    engine = ScriptedEngine([ScriptedReply("One two three.")])
    with ServerErrors() as errors, serving(engine) as address:
        for surface in SURFACES:
            num_sockets = fuzz_socket(address, surface, number, seed)
            wait_until_free(engine)
            print(f"{surface.name}: {number} messages over {num_sockets} sockets")
        statuses = fuzz_http(address, number, seed)
        print(f"HTTP: {number} requests, {dict(sorted(statuses.items()))}")
        health = httpx.get(f"http://{address}/health").json()
    assert 500 not in statuses, statuses
    assert health["sessions"] == 0, health
    assert errors.told == []
    print("no status of 500, nothing in the log, no place lost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("messages", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    main(parsed.messages, parsed.seed)
