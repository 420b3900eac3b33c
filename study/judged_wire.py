"""A server that is judged, as its clients see it: OpenAI's Realtime API, or its Live API.

Only what both APIs state is relied on, in the names of the generally available version and of the
beta before it, so that any server that speaks one of them can be judged.
"""

import asyncio
import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

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
class ToldTruncated:
    """The server has cut an item to what was heard."""

    item: str
    audio_end_ms: float


@dataclass(frozen=True, slots=True)
class ToldItem:
    """What an item holds now."""

    item: str
    text: str


@dataclass(frozen=True, slots=True)
class Complaint:
    """The server refuses something."""

    message: str


Told = ToldWords | ToldSound | VoiceNoticed | ReplyOver | ToldTruncated | ToldItem | Complaint


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
            case "conversation.item.truncated":
                yield ToldTruncated(message["item_id"], message["audio_end_ms"])
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
