"""Strangers who would stop a server or fill its disk: for a process of its own.

Each does one thing, goes, and does another. What they are told is counted; it may be anything but a
failure of the server's.
"""

import asyncio
import base64
import json
import random
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from io import BytesIO

import aiohttp
import numpy as np
import soundfile
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ

NUM_AT_ONCE = 4
NUM_ADDRESSES = 8
"""From which they come, as a trusted proxy tells."""
KNOWING_SHARE = 0.8
"""Of them, those who know the key."""
MOST_SECONDS = 20.0
"""For one thing."""
HUGE_BYTES = 17 * 2**20
GRADIOS_OWN = (
    ("GET", "/pwa_icon/14000"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/queue/join"),
    ("GET", "/config"),
)
MALFORMED = (
    "{",
    "null",
    '{"type":1}',
    '{"type":"input_audio_buffer.append","audio":"@@@"}',
    '{"type":"session.update","session":{"temperature":1e999}}',
    '{"type":"conversation.item.truncate","item_id":"x","audio_end_ms":-5}',
    '{"type":"playback.ack","played_ms":NaN}',
    "[" * 10_000,
    json.dumps({"type": "response.cancel", "event_id": "x" * 1_000_000}),
)


@dataclass(frozen=True, slots=True)
class Strength:
    """How much strangers do at once."""

    num_sockets: int = 60
    """That say nothing, and requests."""
    num_frames: int = 3000
    num_guesses: int = 15
    num_exports: int = 10
    num_tokens: int = 1_000_000
    num_silent_chunks: int = 9000
    unread_seconds: float = 3.0
    query: str = "duplex=1&input_rate=16000"
    """Of their sockets; of a conversation that can be resumed, the place is free after a minute."""


class Stranger:
    """Somebody at one address.

    Args:
        address: of the server, `host:port`.
        access_key: None for somebody who does not know it.
        told: counts what the server says.
        chance: what is done next.
        strength: how much of it.
    """

    def __init__(
        self,
        address: str,
        access_key: str | None,
        told: Counter[str],
        chance: random.Random,
        strength: Strength,
    ) -> None:
        self.strength = strength
        self.address = address
        self.told = told
        self.chance = chance
        self.headers = {"X-Forwarded-For": f"198.51.100.{chance.randrange(NUM_ADDRESSES)}"}
        if access_key is not None:
            self.headers["Authorization"] = f"Bearer {access_key}"

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """A request, and what is answered; its status is counted."""
        async with (
            aiohttp.ClientSession(f"http://{self.address}", headers=self.headers) as http,
            http.request(method, path, data=body, headers=headers) as answer,
        ):
            self.told[f"HTTP {answer.status}"] += 1
            return await answer.read()

    @asynccontextmanager
    async def socket(self, query: str = "", **headers: str) -> AsyncIterator[ClientConnection]:
        """A socket, which is left without a goodbye."""
        opened = await connect(
            f"ws://{self.address}/v1/realtime?{self.strength.query}{query}",
            additional_headers=self.headers | headers,
            proxy=None,
            max_size=None,
        )
        try:
            yield opened
        finally:
            opened.transport.abort()

    @asynccontextmanager
    async def connection(self, sent: bytes = b"") -> AsyncIterator[asyncio.StreamWriter]:
        """A bare connection, of which nothing is read."""
        host, _, port = self.address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        try:
            writer.write(sent)
            yield writer
        finally:
            writer.transport.abort()


async def say_nothing(stranger: Stranger) -> None:
    """Sockets without a word, or with half of one."""
    for begun in (b"", b"GET / HTTP/1.1\r\nX-Slow: "):
        held = [stranger.connection(begun) for _ in range(stranger.strength.num_sockets)]
        for each in held:
            await each.__aenter__()
        await asyncio.sleep(stranger.strength.unread_seconds)
        for each in held:
            await each.__aexit__(None, None, None)


async def ping(stranger: Stranger) -> None:
    """Pings, which never come to the application."""
    async with stranger.socket() as opened:
        for _ in range(stranger.strength.num_frames):
            await opened.ping()


async def order_prompts(stranger: Stranger) -> None:
    """Prompts in turn, each of which would be computed anew."""
    async with stranger.socket() as opened:
        for number in range(stranger.strength.num_frames):
            session = {"instructions": f"{number % 2} " * 300}
            await opened.send(json.dumps({"type": "session.update", "session": session}))


async def guess(stranger: Stranger) -> None:
    """Wrong keys."""
    for _ in range(stranger.strength.num_guesses):
        guessed = f"Bearer {stranger.chance.random()}"
        await stranger.ask("GET", f"/v1/recordings/{'a' * 32}", Authorization=guessed)


async def send_nonsense(stranger: Stranger) -> None:
    """Messages that cannot be honoured, one that is too large, and a wrong origin."""
    async with stranger.socket() as opened:
        for message in MALFORMED:
            await opened.send(message)
        await opened.send("x" * HUGE_BYTES)
        await opened.wait_closed()
    async with stranger.socket(Origin="https://elsewhere.example") as opened:
        async for _ in opened:
            pass


async def use_gradios_routes(stranger: Stranger) -> None:
    """What the page does not need."""
    for method, path in GRADIOS_OWN:
        await stranger.ask(method, path)


async def ask_much(stranger: Stranger) -> None:
    """Requests without a pause."""
    for _ in range(stranger.strength.num_sockets):
        await asyncio.gather(*(stranger.ask("GET", "/") for _ in range(NUM_AT_ONCE)))


async def vanish(stranger: Stranger) -> None:
    """Begin to talk, and go; also while in line."""
    audio = base64.b64encode(bytes(2 * CHUNK_SAMPLES)).decode()
    async with stranger.socket("&record=1") as opened:
        for _ in range(5):
            message = {"type": "input_audio_buffer.append", "audio": audio}
            await opened.send(json.dumps(message))
        await opened.send('{"type":"response.create"}')
        await asyncio.sleep(stranger.chance.random())


async def bring_damaged(stranger: Stranger) -> None:
    """A file of which one byte is another, and one that breaks off."""
    damaged = bytearray(silence(10))
    damaged[stranger.chance.randrange(len(damaged))] ^= 0xFF
    await stranger.ask("POST", "/v1/recordings", bytes(damaged))
    begun = b"POST /v1/recordings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nPK"
    async with stranger.connection(begun):
        await asyncio.sleep(1)


async def bring_tokens(stranger: Stranger) -> None:
    """A small file with a great many lines."""
    answer = json.loads(
        await stranger.ask("POST", "/v1/recordings", tokens(stranger.strength.num_tokens))
    )
    if "recording_id" in answer:
        await stranger.ask("DELETE", f"/v1/recordings/{answer['recording_id']}")


async def export_unread(stranger: Stranger) -> None:
    """A small file that becomes a large one, many times over and read by nobody."""
    brought = await stranger.ask(
        "POST", "/v1/recordings", silence(stranger.strength.num_silent_chunks)
    )
    answer = json.loads(brought)
    if "recording_id" not in answer:
        return
    path = f"/v1/recordings/{answer['recording_id']}"
    headers = "".join(f"{name}: {value}\r\n" for name, value in stranger.headers.items())
    request = f"GET {path}/export/wav HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()
    held = [stranger.connection(request) for _ in range(stranger.strength.num_exports)]
    for each in held:
        await each.__aenter__()
    forking = asyncio.create_task(stranger.ask("POST", f"{path}/forks", b'{"from_chunk":1}'))
    await asyncio.sleep(stranger.strength.unread_seconds)
    forking.cancel()
    await stranger.ask("DELETE", path)
    for each in held:
        await each.__aexit__(None, None, None)


DEEDS: tuple[Callable[[Stranger], Awaitable[None]], ...] = (
    say_nothing,
    ping,
    order_prompts,
    guess,
    send_nonsense,
    use_gradios_routes,
    ask_much,
    vanish,
    bring_damaged,
    bring_tokens,
    export_unread,
)


def harass(
    address: str, access_key: str, seconds: float, strength: Strength, seed: int = 0
) -> dict[str, int]:
    """Do all of it at least once, a few things at once; what was done and told, counted."""
    told: Counter[str] = Counter()
    asyncio.run(_harass(address, access_key, seconds, strength, random.Random(seed), told))
    return dict(told)


async def _harass(
    address: str,
    access_key: str,
    seconds: float,
    strength: Strength,
    chance: random.Random,
    told: Counter[str],
) -> None:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    left = chance.sample(DEEDS, len(DEEDS))

    async def go_on() -> None:
        while left or loop.time() < ends_at:
            if not left:
                left.extend(chance.sample(DEEDS, len(DEEDS)))
            key = access_key if chance.random() < KNOWING_SHARE else None
            await do(left.pop(), Stranger(address, key, told, chance, strength))

    await asyncio.gather(*(go_on() for _ in range(NUM_AT_ONCE)))


async def do(deed: Callable[[Stranger], Awaitable[None]], stranger: Stranger) -> None:
    """One thing, however it ends."""
    stranger.told[deed.__name__] += 1
    # To be closed, refused or kept waiting is what they are here for.
    with suppress(WebSocketException, aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(MOST_SECONDS):
            await deed(stranger)


# Small files, large work


def tokens(count: int) -> bytes:
    """A session file with so many tokens of one reply."""
    token = '{"type":"token","at":0.5,"turn":0,"token":2,"cause":"drawn","text":"a"}\n'
    return session_file([_decision(0, speaks=True), token * count], 1)


def silence(num_chunks: int) -> bytes:
    """A session file in which nothing was said."""
    return session_file([_decision(chunk) for chunk in range(num_chunks)], num_chunks)


def session_file(lines: list[str], num_chunks: int) -> bytes:
    """A session file of these records, with silence for its sound."""
    manifest = {
        "format": "aisession",
        "version": 1,
        "application": "bench",
        "started_at": "2026-01-01T00:00:00Z",
        "checkpoint": {
            "name": "none",
            "fingerprint": "0" * 64,
            "device": "cpu",
            "dtype": "float32",
            "max_positions": 100,
        },
        "system_prompt": "",
        "seed": 1,
        "drawing": {"temperature": 0.0, "top_k": 1, "max_reply_tokens": 8},
    }
    sound = BytesIO()
    with soundfile.SoundFile(sound, "w", SAMPLE_RATE_HZ, 1, "PCM_16", format="FLAC") as flac:
        for _ in range(num_chunks):
            flac.write(np.zeros(CHUNK_SAMPLES, np.float32))
    end = f'{{"type":"end","at":{0.4 * num_chunks},"chunks":{num_chunks}}}\n'
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("events.jsonl", "".join([*lines, end]))
        archive.writestr("microphone.flac", sound.getvalue())
    return packed.getvalue()


def _decision(chunk: int, *, speaks: bool = False) -> str:
    fields = {
        "type": "decision",
        "at": 0.4 * chunk,
        "chunk": chunk,
        "arrived": 0.0,
        "speak": speaks,
        "token": 1,
        "cause": "drawn",
        "logits": [0, 0],
        "probability": 0.5,
        "threshold": 0.5,
        "milliseconds": 1.0,
        "positions": 5,
    }
    return f"{json.dumps(fields)}\n"
