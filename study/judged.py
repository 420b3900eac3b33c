"""A server that is judged, as its clients see it: OpenAI's Realtime API, or its Live API.

Only what both APIs state is relied on, in the names of the generally available version and of the
beta before it, so that any server that speaks one of them can be judged. And what a client makes of
it: it plays what comes, stops when told to, and notes it all.
"""

import asyncio
import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from backend.audio import Samples, pcm16_to_float
from backend.errors import AudioInteractionError, SettingsError

RATE_HZ = 24_000
"""Of both directions."""
OPEN_SECONDS = 20.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
TEXTS = (
    "response.output_text.delta",
    "response.text.delta",
    "response.output_audio_transcript.delta",
    "response.audio_transcript.delta",
)
SOUNDS = ("response.output_audio.delta", "response.audio.delta")
FRAME_SECONDS = 0.02
AUDIBLE = 0.004
"""RMS of a frame, of a full scale of 1."""
PAUSE_SECONDS = 0.4
"""Shorter silence within a reply's sound is part of it."""
SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


class JudgedServerError(AudioInteractionError):
    """The server that is to be judged cannot be reached, refuses, or has gone away."""


class Api(StrEnum):
    """What a server speaks."""

    REALTIME = "realtime"
    LIVE = "live"

    @property
    def path(self) -> str:
        """Where it is found, if the address does not say."""
        return "/v1/realtime" if self is Api.REALTIME else "/v1/live/sessions"

    @classmethod
    def of(cls, address: str) -> "Api":
        """By the path of an address; Realtime where that says nothing."""
        return cls.LIVE if "/live" in urlsplit(address).path else cls.REALTIME


@dataclass(frozen=True, slots=True)
class ToldWords:
    """More of a reply's text."""

    item: str
    text: str


@dataclass(frozen=True, slots=True)
class ToldSound:
    """More of a reply's sound, 16-bit PCM at 24 kHz."""

    item: str
    pcm: bytes


@dataclass(frozen=True, slots=True)
class VoiceNoticed:
    """The client is to fall silent: somebody speaks."""


@dataclass(frozen=True, slots=True)
class ReplyOver:
    """Nothing follows of a reply."""

    status: str


@dataclass(frozen=True, slots=True)
class ToldItem:
    """What an item holds now."""

    item: str
    text: str


@dataclass(frozen=True, slots=True)
class Complaint:
    """The server refuses something."""

    message: str


Told = ToldWords | ToldSound | VoiceNoticed | ReplyOver | ToldItem | Complaint


class JudgedWire(ABC):
    """One conversation with a server; use `opened`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def told(self) -> list[Told]:
        """What the next message says.

        Raises:
            JudgedServerError: the server has ended the conversation.
        """
        try:
            text = await self._connection.recv()
        except ConnectionClosed as closed:
            reason = closed.rcvd.reason if closed.rcvd else ""
            raise JudgedServerError(
                f"the server has ended the conversation: {reason or 'without a word'}"
            ) from closed
        try:
            message = json.loads(text)
            return list(self._read(message))
        except (ValueError, KeyError, TypeError, AttributeError):
            # Of another shape than the API's: it is told, and what follows may do.
            return [Complaint(f"a message cannot be understood: {text[:100]!r}")]

    async def send(self, message: dict[str, object]) -> None:
        """Ask for something.

        Raises:
            JudgedServerError: the server has ended the conversation.
        """
        try:
            await self._connection.send(json.dumps(message))
        except ConnectionClosed as closed:
            raise JudgedServerError("the server has ended the conversation") from closed

    async def close(self) -> None:
        """Leave."""
        await self._connection.close()

    @abstractmethod
    async def start(self, model: str, voice: str | None) -> None:
        """Begin: voice in, voice out, turns taken by the server."""

    @abstractmethod
    async def say(self, pcm: bytes) -> None:
        """Send the microphone's sound."""

    @abstractmethod
    def _read(self, message: dict[str, Any]) -> Iterator[Told]: ...

    async def _until(self, event_type: str) -> None:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                while (message := json.loads(await self._connection.recv()))["type"] != event_type:
                    if message["type"] == "error":
                        raise JudgedServerError(f"the server refuses: {_reason(message)}")
        except ConnectionClosed as closed:
            reason = closed.rcvd.reason if closed.rcvd else "without a word"
            raise JudgedServerError(f"the server does not begin: {reason}") from closed
        except TimeoutError as error:
            raise JudgedServerError(
                f"the server says no {event_type} within {OPEN_SECONDS:g} s"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise JudgedServerError("the server speaks another protocol") from error


class JudgedRealtime(JudgedWire):
    """The Realtime API."""

    async def start(self, model: str, voice: str | None) -> None:
        """Begin: voice in, voice out, turns taken by the server."""
        await self._until("session.created")
        pcm = {"type": "audio/pcm", "rate": RATE_HZ}
        output = {"format": pcm} | ({"voice": voice} if voice else {})
        turns = {"type": "server_vad", "create_response": True, "interrupt_response": True}
        audio = {"input": {"format": pcm, "turn_detection": turns}, "output": output}
        session = {"type": "realtime", "output_modalities": ["audio"], "audio": audio}
        await self.send({"type": "session.update", "session": session})

    async def say(self, pcm: bytes) -> None:
        """Send the microphone's sound."""
        audio = base64.b64encode(pcm).decode()
        await self.send({"type": "input_audio_buffer.append", "audio": audio})

    async def truncate(self, item: str, played_ms: int) -> None:
        """Say how much of an item was played, and ask what it holds now."""
        place = {"item_id": item, "content_index": 0, "audio_end_ms": played_ms}
        await self.send({"type": "conversation.item.truncate", **place})
        await self.send({"type": "conversation.item.retrieve", "item_id": item})

    def _read(self, message: dict[str, Any]) -> Iterator[Told]:
        match message.get("type"):
            case kind if kind in TEXTS:
                yield ToldWords(message.get("item_id", ""), message["delta"])
            case kind if kind in SOUNDS:
                yield ToldSound(message.get("item_id", ""), base64.b64decode(message["delta"]))
            case "input_audio_buffer.speech_started":
                yield VoiceNoticed()
            case "response.done":
                yield ReplyOver(message.get("response", {}).get("status", ""))
            case "conversation.item.retrieved":
                item = message["item"]
                parts = [part.get("transcript") or "" for part in item.get("content", [])]
                yield ToldItem(item.get("id", ""), "".join(parts))
            case "error":
                yield Complaint(_reason(message))


class JudgedLive(JudgedWire):
    """The Live API: one track of sound that passes in real time, and no truncation to ask for."""

    async def start(self, model: str, voice: str | None) -> None:
        """Begin: voice in, voice out, turns taken by the server."""
        audio: dict[str, object] = {"format": {"type": "audio/pcm", "rate": RATE_HZ}}
        if voice:
            audio["output"] = {"voice": voice}
        await self.send({"type": "session.start", "session": {"model": model, "audio": audio}})
        await self._until("session.started")

    async def say(self, pcm: bytes) -> None:
        """Send the microphone's sound."""
        audio = base64.b64encode(pcm).decode()
        await self.send({"type": "session.input_audio.append", "audio": audio})

    def _read(self, message: dict[str, Any]) -> Iterator[Told]:
        match message.get("type"):
            case "session.output_transcript.delta":
                yield ToldWords("", message["delta"])
            case "session.output_audio.delta":
                yield ToldSound("", base64.b64decode(message["delta"]))
            case "error":
                yield Complaint(_reason(message))


def _reason(message: dict[str, Any]) -> str:
    error = message.get("error")
    told = error if isinstance(error, dict) else message
    return str(told.get("message") or told.get("code") or "without a reason")


async def opened(
    address: str, api: Api, model: str, key: str | None, voice: str | None
) -> JudgedWire:
    """A conversation that has begun.

    Raises:
        JudgedServerError: there is no such server, or it refuses.
        SettingsError: the address is none.
    """
    try:
        connection = await connect(
            socket_address(address, api, model),
            additional_headers={"Authorization": f"Bearer {key}"} if key else None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=OPEN_SECONDS,
        )
    except InvalidURI as error:
        raise SettingsError(f"{address} is no address of a server") from error
    except (OSError, InvalidHandshake, EOFError, ValueError) as error:
        reason = str(error) or "it takes too long"
        raise JudgedServerError(f"{address} cannot be reached: {reason}") from error
    wire: JudgedWire = JudgedRealtime(connection) if api is Api.REALTIME else JudgedLive(connection)
    await wire.start(model, voice)
    return wire


def socket_address(address: str, api: Api, model: str) -> str:
    """The address of the socket: `wss://host` and a whole address will both do.

    Raises:
        SettingsError: it is none.
    """
    parts = urlsplit(address if "://" in address else f"ws://{address}")
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise SettingsError(f"{address} is no address of a server, as is wss://example.org")
    path = parts.path if parts.path not in ("", "/") else api.path
    query = dict(parse_qsl(parts.query))
    if api is Api.REALTIME:
        query.setdefault("model", model)
    return f"{SCHEMES[parts.scheme]}://{parts.netloc}{path}?{urlencode(query)}"


# What a client plays; times are seconds of its clock


@dataclass(slots=True)
class Audible:
    """Sound without a long pause in it."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Cut:
    """A reply that was playing and fell silent because the server noticed a voice."""

    at: float
    item: str
    played_seconds: float


@dataclass(slots=True)
class _Playing:
    """What is known of an item's sound."""

    start: float
    seconds: float


@dataclass(slots=True)
class RealTimePlayer:
    """Plays pieces of sound one after the other, in real time, and can be stopped."""

    audible: list[Audible] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    _pieces: list[tuple[float, Samples]] = field(default_factory=list)
    """What was or is to be heard, and when it begins."""
    _free_at: float = 0.0
    """When all that came has been played."""
    _items: dict[str, _Playing] = field(default_factory=dict)
    _stopped: set[str] = field(default_factory=set)

    def play(self, at: float, item: str, pcm: bytes) -> None:
        """A piece has arrived."""
        if item in self._stopped:
            return
        start = max(at, self._free_at)
        samples = pcm16_to_float(pcm[: len(pcm) // 2 * 2])
        self._free_at = start + len(samples) / RATE_HZ
        self._pieces.append((start, samples))
        playing = self._items.setdefault(item, _Playing(start, 0.0))
        playing.seconds += len(samples) / RATE_HZ
        size = round(FRAME_SECONDS * RATE_HZ)
        frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
        loud = np.flatnonzero(np.sqrt(np.mean(frames**2, axis=1)) > AUDIBLE)
        for number in loud.tolist():
            self._add(start + number * FRAME_SECONDS)

    def stop(self, at: float) -> Cut | None:
        """Fall silent; what of is still to be played is dropped. None where nothing plays."""
        if at >= self._free_at:
            return None
        item = next((i for i, p in reversed(self._items.items()) if i not in self._stopped), "")
        playing = self._items[item]
        # An item whose last sound comes after another's begins where that one ended.
        played = min(playing.seconds, max(0.0, at - playing.start))
        self._free_at = at
        self._pieces = [
            (start, samples[: max(0, round((at - start) * RATE_HZ))])
            for start, samples in self._pieces
        ]
        self._stopped.add(item)
        for sound in self.audible:
            sound.end = min(sound.end, max(at, sound.start))
        self.audible = [sound for sound in self.audible if sound.end > sound.start]
        self.cuts.append(Cut(at, item, played))
        return self.cuts[-1]

    def track(self, since: float, until: float) -> Samples:
        """All that was heard between two times, float32 `[n]` at 24 kHz."""
        track = np.zeros(round((until - since) * RATE_HZ), np.float32)
        for start, samples in self._pieces:
            first = round((start - since) * RATE_HZ)
            inside = samples[max(0, -first) : max(0, len(track) - first)]
            track[max(0, first) :][: len(inside)] = inside
        return track

    def span_of(self, item: str) -> tuple[float, float, float] | None:
        """When a reply began, when it would have ended, and until when it was heard."""
        if (playing := self._items.get(item)) is None:
            return None
        whole_end = playing.start + playing.seconds
        cuts = [cut.at for cut in self.cuts if cut.item == item]
        return playing.start, whole_end, min([whole_end, *cuts])

    def is_audible(self, since: float, until: float) -> bool:
        """Whether anything sounds between two times."""
        return any(sound.start < until and sound.end > since for sound in self.audible)

    def first_after(self, at: float) -> float | None:
        """When a sound begins after a time; None: not yet."""
        return next((sound.start for sound in self.audible if sound.start >= at), None)

    def silent_from(self, at: float) -> float:
        """When what sounds at a time is over."""
        return next((s.end for s in self.audible if s.start <= at < s.end), at)

    def _add(self, start: float) -> None:
        end = start + FRAME_SECONDS
        if self.audible and start - self.audible[-1].end < PAUSE_SECONDS:
            self.audible[-1].end = end
        else:
            self.audible.append(Audible(start, end))
