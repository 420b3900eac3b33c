"""The online voices: Microsoft Edge's, through edge-tts. The text leaves this machine."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp
import av
import edge_tts
from edge_tts.exceptions import EdgeTTSException

from backend.config import SPEECH_RATE_HZ
from backend.errors import VoiceUnavailableError, VoiceUnreachableError
from backend.speech.voice import Prosody

CONNECT_TIMEOUT_SECONDS = 3
RECEIVE_TIMEOUT_SECONDS = 5

Answer = AsyncGenerator[Mapping[str, Any], None]
Communicate = Callable[..., Answer]
"""Asks the service for a sentence: what it answers, `{"type": "audio", "data": mp3}` among it."""

logger = logging.getLogger(__name__)

# Beside its own errors, what edge-tts lets through: the connection's, and answers that are not what
# it expects (ValueError, KeyError). Seen from here, all of them mean that nothing is to be heard.
_FAILURES = (
    EdgeTTSException,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    ValueError,
    KeyError,
)


def communicate(text: str, **settings: Any) -> Answer:
    """What the service answers to `text`; it is asked with the first step."""
    return edge_tts.Communicate(text, **settings).stream()


class EdgeVoice:
    """A neural voice of Microsoft Edge: good, online, and for one language (Chinese: and English).

    `communicate` is edge-tts' own; tests put theirs.
    """

    is_online = True
    failure: str | None = None

    def __init__(
        self, name: str, label: str, language: str, communicate: Communicate = communicate
    ) -> None:
        self.id = f"edge:{name}"
        self.label = label
        self.language = language
        self._name = name
        self._communicate = communicate

    async def synthesize(self, text: str, prosody: Prosody) -> AsyncGenerator[bytes, None]:
        """`text` as PCM16 mono at 24 kHz, while the service is still sending it.

        Raises:
            VoiceUnreachableError: no internet, or the service refuses us.
            VoiceUnavailableError: it does not say this text.
        """
        decoder = _Mp3Decoder()
        has_sound = False
        try:
            answer = self._communicate(
                text,
                voice=self._name,
                rate=f"{prosody.rate_percent:+d}%",
                pitch=f"{prosody.pitch_hz:+d}Hz",
                volume=f"{prosody.volume_percent:+d}%",
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                receive_timeout=RECEIVE_TIMEOUT_SECONDS,
            )
            async with aclosing(answer):
                async for chunk in answer:
                    if chunk["type"] != "audio":
                        continue
                    for pcm in decoder.decode(bytes(chunk["data"])):
                        has_sound = True
                        yield pcm
            for pcm in decoder.flush():
                has_sound = True
                yield pcm
        except _FAILURES as error:
            logger.warning("%s cannot speak: %s", self.label, _reason(error))
            is_unreachable = _is_unreachable(error) and not has_sound
            kind = VoiceUnreachableError if is_unreachable else VoiceUnavailableError
            raise kind(f"{self.label} cannot speak: {_reason(error)}") from error
        if not has_sound:
            raise VoiceUnavailableError(f"{self.label} cannot speak: the service sent no sound")


def _reason(error: BaseException) -> str:
    match error:
        case TimeoutError():
            return "the service does not answer in time"
        case aiohttp.ClientResponseError():
            return f"the service refuses, with status {error.status}"
        case OSError():
            return "the service cannot be reached"
        case _:
            return "the service answers something else than sound"


def _is_unreachable(error: BaseException) -> bool:
    """Whether it says nothing about the text: no connection, or we are not let in."""
    if isinstance(error, aiohttp.ClientConnectionError):
        return isinstance(error, aiohttp.ClientConnectorError)
    return isinstance(error, OSError | aiohttp.ClientResponseError) and not isinstance(
        error, TimeoutError
    )


class _Mp3Decoder:
    """Decodes mp3 as its bytes come."""

    def __init__(self) -> None:
        self._codec = av.CodecContext.create("mp3", "r")
        self._to_pcm = av.AudioResampler(format="s16", layout="mono", rate=SPEECH_RATE_HZ)

    def decode(self, mp3: bytes) -> Iterator[bytes]:
        for packet in self._codec.parse(mp3):
            yield from self._decode_packet(packet)

    def flush(self) -> Iterator[bytes]:
        yield from self.decode(b"")
        yield from self._decode_packet(None)
        yield from self._pcm_of(None)

    def _decode_packet(self, packet: "av.Packet[av.AudioStream] | None") -> Iterator[bytes]:
        try:
            frames = self._codec.decode(packet)
        except av.InvalidDataError:
            return  # a tag, or a damaged frame of 24 ms: the decoder goes on with the next
        for frame in frames:
            yield from self._pcm_of(frame)

    def _pcm_of(self, frame: av.AudioFrame | None) -> Iterator[bytes]:
        for converted in self._to_pcm.resample(frame):
            yield converted.to_ndarray().astype("<i2").tobytes()
