"""How audio is encoded on a wire: PCM16, and the G.711 of telephones."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
import numpy.typing as npt

from backend.audio import PCM16_BYTES, Resampler, float_to_pcm16, pcm16_to_float
from backend.config import SPEECH_RATE_HZ
from backend.wires.errors import WireError

G711_RATE_HZ = 8_000


class Encoding(StrEnum):
    """As the OpenAI API names them; all are mono."""

    PCM = "audio/pcm"
    """16 bit, little-endian."""
    MU_LAW = "audio/pcmu"
    """G.711, as in North America and Japan."""
    A_LAW = "audio/pcma"
    """G.711, as elsewhere."""


@dataclass(frozen=True, slots=True)
class WireFormat:
    """How one direction's audio is encoded."""

    encoding: Encoding = Encoding.PCM
    rate_hz: int = SPEECH_RATE_HZ

    def decode(self, encoded: bytes) -> bytes:
        """PCM16 at the same rate.

        Raises:
            WireError: not a whole number of samples.
        """
        if self.encoding is not Encoding.PCM:
            codes = np.frombuffer(encoded, np.uint8)
            return _levels(self.encoding)[codes].astype("<i2").tobytes()
        if len(encoded) % PCM16_BYTES:
            raise WireError(
                f"16-bit audio has an even number of bytes, not {len(encoded)}",
                "odd_byte_count",
                "audio",
            )
        return encoded

    def encode(self, pcm: bytes) -> bytes:
        """The same of PCM16 at the same rate."""
        if self.encoding is Encoding.PCM:
            return pcm
        return _codes(self.encoding)[np.frombuffer(pcm, "<i2").view(np.uint16)].tobytes()


class SpeechEncoder:
    """Encodes a stream of speech, PCM16 at 24 kHz, as a wire wants it."""

    def __init__(self, wanted: WireFormat) -> None:
        self.format = wanted
        self._resampler = self._new_resampler()

    def __reduce__(self) -> tuple[type["SpeechEncoder"], tuple[WireFormat]]:
        # What a filter holds does not travel: another process goes on without.
        return SpeechEncoder, (self.format,)

    def encode(self, pcm: bytes) -> bytes:
        """More of the stream; what can be computed so far (the filter looks ahead)."""
        if self._resampler is None:
            return self.format.encode(pcm)
        return self._encoded(self._resampler.process(pcm16_to_float(pcm)))

    def finish(self) -> bytes:
        """What the filter still holds; another stream may follow."""
        if self._resampler is None:
            return b""
        held, self._resampler = self._resampler.flush(), self._new_resampler()
        return self._encoded(held)

    def _new_resampler(self) -> Resampler | None:
        rate_hz = self.format.rate_hz
        return None if rate_hz == SPEECH_RATE_HZ else Resampler(SPEECH_RATE_HZ, rate_hz)

    def _encoded(self, samples: npt.NDArray[np.float32]) -> bytes:
        return self.format.encode(float_to_pcm16(samples))


@cache
def _levels(encoding: Encoding) -> npt.NDArray[np.int16]:
    """The sample `[256]` that each code stands for: ITU-T G.711, tables 1 and 2, in 16 bits."""
    codes = np.arange(256)
    if encoding is Encoding.MU_LAW:
        codes = ~codes & 0xFF
        exponent, mantissa = (codes >> 4) & 7, codes & 0xF
        levels = (((mantissa << 3) + 0x84) << exponent) - 0x84
        is_negative = codes & 0x80 > 0
    else:
        codes ^= 0x55
        exponent, mantissa = (codes >> 4) & 7, codes & 0xF
        levels = np.where(
            exponent == 0,
            (mantissa << 4) + 8,
            ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0),
        )
        is_negative = codes & 0x80 == 0
    return np.where(is_negative, -levels, levels).astype(np.int16)


@cache
def _codes(encoding: Encoding) -> npt.NDArray[np.uint8]:
    """The code `[65536]` that is nearest to each sample, as its bits stand for a number."""
    levels = _levels(encoding).astype(np.int32)
    order = np.argsort(levels, kind="stable")
    ascending = levels[order]
    borders = (ascending[1:] + ascending[:-1]) / 2
    samples = np.arange(65_536, dtype=np.uint16).view(np.int16)
    # To the right of a border: of the two codes of nothing, the positive one.
    return order[np.searchsorted(borders, samples, side="right")].astype(np.uint8)
