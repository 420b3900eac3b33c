"""A local client's conversation without a sound card: tests are its microphone and its ears."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import pytest

from backend.audio import Samples, float_to_pcm16
from client.address import ServerAddress
from client.audio_format import FRAME_SAMPLES, REPLY_RATE_HZ, SAMPLE_RATE_HZ
from client.live import Live, LiveOptions, State
from client.messages import SoundError, message
from client.playback import Player
from client.sound_card import Device, Format, Loudspeaker, Microphone
from client.wire import WireEvent

WAIT_SECONDS = 60.0
FILL_SECONDS = 0.01


class OpenStream:
    """What PyAudio gives for a device that works."""

    def is_active(self) -> bool:
        return True

    def close(self) -> None:
        pass


@dataclass
class FakeSoundCard:
    """In the place of PortAudio; keeps what was opened."""

    microphone_of: Microphone | None = None
    heard: list[Samples] = field(default_factory=list)
    player: Player | None = None
    num_opened: int = 0
    """Microphones, one after the other."""
    is_busy: bool = False
    """Whether another program has every microphone."""

    def devices(self) -> list[Device]:
        return [self.microphone(None), self.loudspeaker(None)]

    def microphone(self, chosen: str | None) -> Device:
        return Device(0, chosen or "built-in", 1, 0, SAMPLE_RATE_HZ, True, False)

    def loudspeaker(self, chosen: str | None) -> Device:
        return Device(1, chosen or "built-in", 0, 1, REPLY_RATE_HZ, False, True)

    def open_microphone(self, device: Device, on_news: Callable[[], None]) -> Microphone:
        if self.is_busy:
            raise SoundError(message("problem.microphone_unusable", name=device.name))
        self.num_opened += 1
        self.microphone_of = Microphone(Format(SAMPLE_RATE_HZ, 1), on_news)
        self.microphone_of.stream = OpenStream()  # type: ignore[assignment]
        return self.microphone_of

    def open_loudspeaker(self, device: Device, player_at: Callable[[int], Player]) -> Loudspeaker:
        self.player = player_at(REPLY_RATE_HZ)
        loudspeaker = Loudspeaker(Format(REPLY_RATE_HZ, 1), self.player)
        loudspeaker.stream = OpenStream()  # type: ignore[assignment]
        return loudspeaker

    def close(self) -> None:
        pass


class ToldLive(Live):
    """Keeps what the server told."""

    def __init__(self, address: ServerAddress, options: LiveOptions) -> None:
        super().__init__(address, options)
        self.told: list[WireEvent] = []

    def receive(self, event: WireEvent) -> None:
        self.told.append(event)
        super().receive(event)


class LiveTalk:
    """One that goes on."""

    def __init__(self, live: ToldLive, card: FakeSoundCard) -> None:
        self.live = live
        self.card = card

    async def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come"
            await asyncio.sleep(0.01)

    async def until_told(self, event_type: str) -> WireEvent:
        await self.until(lambda: self.told(event_type), event_type)
        return self.told(event_type)[-1]

    def told(self, event_type: str) -> list[WireEvent]:
        return [event for event in self.live.told if event["type"] == event_type]

    async def hear(self, sound: Samples) -> None:
        """Let the microphone hear a sound at 16 kHz, as it comes but faster."""
        assert self.card.microphone_of is not None
        for start in range(0, len(sound), FRAME_SAMPLES):
            pcm = float_to_pcm16(sound[start : start + FRAME_SAMPLES].astype(np.float32))
            self.card.microphone_of.take_in(pcm, FRAME_SAMPLES, {}, 0)
            await asyncio.sleep(0.002)

    async def listen(self) -> None:
        """Play what is to be played, as fast as a loudspeaker does."""
        loop = asyncio.get_running_loop()
        started, num_played = loop.time(), 0.0
        while True:
            await asyncio.sleep(FILL_SECONDS)
            while num_played < loop.time() - started:
                if self.card.player is not None:
                    block = self.card.player.fill(round(FILL_SECONDS * REPLY_RATE_HZ), loop.time())
                    self.card.heard.append(block)
                num_played += FILL_SECONDS


@asynccontextmanager
async def talking_live(
    address: str, monkeypatch: pytest.MonkeyPatch, options: LiveOptions | None = None
) -> AsyncIterator[LiveTalk]:
    """A conversation with a server, while the block runs."""
    card = FakeSoundCard()
    monkeypatch.setattr("client.live.SoundCard", lambda: card)
    live = ToldLive(ServerAddress.parse(address), options or LiveOptions())
    talk = LiveTalk(live, card)
    going_on = asyncio.create_task(live.run())
    try:
        await talk.until(
            lambda: live.state in (State.LISTENING, State.MUTED) or going_on.done(), "the beginning"
        )
        assert not going_on.done(), going_on.exception()
        playing = asyncio.create_task(talk.listen())
        yield talk
        playing.cancel()
    finally:
        live.stop()
        await going_on


class Line:
    """Passes connections on to a server, and can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: list[asyncio.StreamWriter] = []
        self.num_connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, server_writer]
        await asyncio.gather(
            self._pass_on(reader, server_writer), self._pass_on(server_reader, writer)
        )

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def line_to(address: str) -> AsyncIterator[tuple[str, Line]]:
    """A way to a server that can be cut: its own `host:port`."""
    host, port = address.split(":")
    line = Line(host, int(port))
    server = await asyncio.start_server(line.connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", line
    finally:
        server.close()
        line.cut()
