"""What happens to speech between a mouth and a model: each condition in known steps.

All randomness comes from the clip's name, so a condition makes the same sound of it every time.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import soxr

from backend.audio import PCM16_SCALE, Samples
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ
from study.clips import LEVELS_PER_SECOND, levels_of

LEAD_SECONDS = 0.8
"""Of the room alone, before a clip."""
LISTENING_CHUNKS = 4
"""After a clip's end, in which it can be answered."""
ROOM_DBFS = (-80.0, -45.0)
"""Between these lies the level that a clip's own pauses have; the room goes on with it."""
GATE_DB = 30.0
"""A gate opens for what is at most so much below the clip's loudest moment."""
TELEPHONE_HZ = (300.0, 3400.0)
LAPTOP_HZ = (250.0, 5500.0)
ECHO_SECONDS = 0.12
ROOM_DECAY_SECONDS = 0.5
"""In which a room's sound falls by 60 dB."""
REVERBERANT_GAIN = 0.08

Change = Callable[[Samples, np.random.Generator], Samples]
"""What a condition makes of lead, clip and listening time together."""


class Axis(StrEnum):
    """What is changed."""

    UNCHANGED = "unchanged"
    NOISE = "noise"
    """Pink noise; the value is the speech's level above it, in dB."""
    GAIN = "gain"
    """In dB; what leaves full scale is clipped, as a sound card does."""
    GATED = "gated silence"
    """Pauses are digital zeros, as behind a noise gate or a page that sends silence."""
    HISS = "hiss"
    """White noise of so many dB below full scale."""
    BAND = "band"
    RATE = "resampled"
    """Through another sample rate and back, in kHz."""
    CLIPPING = "clipping"
    """So many dB below its peak are cut off."""
    OFFSET = "offset in a chunk"
    """Begins so many ms later."""
    ECHO = "echo"
    NOTHING = "nothing said"
    """No clip at all: a reply is wrong."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One axis at one value."""

    axis: Axis
    value: str
    """In words, with its unit; empty for what is unchanged."""
    change: Change
    number: float | None = None
    """The value, where it is one."""

    @property
    def name(self) -> str:
        """Short and unique."""
        return f"{self.axis} {self.value}".rstrip()


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a model is to hear of a clip under a condition."""

    chunks: Samples
    """float32 `[chunks, 6400]`."""
    onset_seconds: float
    end_seconds: float
    """Of the clip's audible part."""


def expose(
    samples: Samples, span: tuple[float, float], name: str, condition: Condition
) -> Exposure:
    """A clip in its room, under a condition.

    Args:
        samples: float32 `[n]` at 16 kHz.
        span: where it is audible, in seconds.
        name: of the clip, from which noise is drawn.
        condition: what happens to it.
    """
    rng = np.random.default_rng(zlib.crc32(f"{name} {condition.name}".encode()))
    offset = condition.number if condition.axis is Axis.OFFSET else 0.0
    lead_seconds = LEAD_SECONDS + (offset or 0.0) / 1000
    onset, end = (lead_seconds + seconds for seconds in span)
    lead = round(lead_seconds * SAMPLE_RATE_HZ)
    whole = -(-(lead + len(samples)) // CHUNK_SAMPLES) + LISTENING_CHUNKS
    sound = np.zeros(whole * CHUNK_SAMPLES, np.float32)
    if condition.axis is not Axis.GATED:
        sound += _room(samples, rng, len(sound))
    sound[lead : lead + len(samples)] = samples
    changed = condition.change(sound, rng)
    # As a sound card would: no more than full scale.
    heard = np.clip(changed, -1, 1 - 1 / PCM16_SCALE).astype(np.float32)
    return Exposure(heard.reshape(-1, CHUNK_SAMPLES), onset, end)


def nothing(condition: Condition) -> Exposure:
    """The same length of a condition of `Axis.NOTHING` for all, without a clip."""
    rng = np.random.default_rng(zlib.crc32(condition.name.encode()))
    sound = condition.change(np.zeros(20 * CHUNK_SAMPLES, np.float32), rng)
    seconds = len(sound) / SAMPLE_RATE_HZ
    return Exposure(sound.astype(np.float32).reshape(-1, CHUNK_SAMPLES), 0.0, seconds)


def conditions() -> list[Condition]:
    """All of them, by axis, from the mildest to the hardest."""

    def dB(axis: Axis, values: tuple[int, ...], make: Callable[[float], Change]) -> list[Condition]:  # noqa: N802
        return [Condition(axis, f"{value:+d} dB", make(value), value) for value in values]

    return [
        Condition(Axis.UNCHANGED, "", unchanged),
        *dB(Axis.NOISE, (20, 15, 10, 5, 0), noisy),
        *dB(Axis.GAIN, (10,), louder),
        *dB(Axis.GAIN, (-10, -20, -30, -40), louder),
        Condition(Axis.GATED, "", gated),
        *[Condition(Axis.HISS, f"{v} dBFS", hissing(v), v) for v in (-60, -50, -40)],
        Condition(Axis.BAND, "laptop", banded(*LAPTOP_HZ)),
        Condition(Axis.BAND, "telephone", banded(*TELEPHONE_HZ)),
        *[Condition(Axis.RATE, f"{v:g} kHz", resampled(v), v) for v in (44.1, 22.05, 11.025, 8.0)],
        *[Condition(Axis.CLIPPING, f"{v} dB", clipped(v), v) for v in (6, 12, 20)],
        *[Condition(Axis.OFFSET, f"{v} ms", unchanged, v) for v in (80, 160, 240, 320)],
        Condition(Axis.ECHO, "of 120 ms", echoing),
        Condition(Axis.ECHO, "of a room", reverberant),
        Condition(Axis.NOTHING, "digital zero", unchanged),
        Condition(Axis.NOTHING, "hiss of -60 dBFS", hissing(-60)),
        Condition(Axis.NOTHING, "hiss of -40 dBFS", hissing(-40)),
        Condition(Axis.NOTHING, "pink noise of -30 dBFS", humming),
    ]


def unchanged(sound: Samples, _: np.random.Generator) -> Samples:
    """`sound` itself."""
    return sound


def noisy(ratio_db: float) -> Change:
    """Adds pink noise `ratio_db` below the level of what is loud."""

    def change(sound: Samples, rng: np.random.Generator) -> Samples:
        levels = levels_of(sound)
        level = np.sqrt(levels[levels >= levels.max() * 10 ** (-GATE_DB / 10)].mean())
        return sound + pink(len(sound), rng) * np.float32(level * 10 ** (-ratio_db / 20))

    return change


def louder(gain_db: float) -> Change:
    """Multiplies."""
    return lambda sound, _: sound * np.float32(10 ** (gain_db / 20))


def gated(sound: Samples, _: np.random.Generator) -> Samples:
    """Digital zeros where the sound has been weak for 50 ms."""
    levels = levels_of(sound)
    is_open = levels >= levels.max() * 10 ** (-GATE_DB / 10)
    held = np.convolve(is_open, np.ones(LEVELS_PER_SECOND // 10), "same") > 0
    return sound * np.repeat(held, SAMPLE_RATE_HZ // LEVELS_PER_SECOND).astype(np.float32)


def hissing(level_dbfs: float) -> Change:
    """Adds white noise."""

    def change(sound: Samples, rng: np.random.Generator) -> Samples:
        return sound + _white(len(sound), rng) * np.float32(10 ** (level_dbfs / 20))

    return change


def humming(sound: Samples, rng: np.random.Generator) -> Samples:
    """Adds pink noise of -30 dB below full scale."""
    return sound + pink(len(sound), rng) * np.float32(10 ** (-30 / 20))


def banded(low_hz: float, high_hz: float) -> Change:
    """Keeps a band, with Butterworth slopes of 24 dB an octave on both sides."""

    def change(sound: Samples, _: np.random.Generator) -> Samples:
        frequencies = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ)
        above = 1 / np.sqrt(1 + (low_hz / np.maximum(frequencies, 1e-3)) ** 8)
        below = 1 / np.sqrt(1 + (frequencies / high_hz) ** 8)
        return np.fft.irfft(np.fft.rfft(sound) * above * below, len(sound)).astype(np.float32)

    return change


def resampled(rate_khz: float) -> Change:
    """There and back."""

    def change(sound: Samples, _: np.random.Generator) -> Samples:
        there = soxr.resample(sound, SAMPLE_RATE_HZ, rate_khz * 1000)
        back = soxr.resample(there, rate_khz * 1000, SAMPLE_RATE_HZ)
        return np.resize(np.pad(back, (0, max(0, len(sound) - len(back)))), len(sound))

    return change


def clipped(depth_db: float) -> Change:
    """Cuts off the peaks."""

    def change(sound: Samples, _: np.random.Generator) -> Samples:
        ceiling = np.abs(sound).max() * np.float32(10 ** (-depth_db / 20))
        return np.clip(sound, -ceiling, ceiling)

    return change


def echoing(sound: Samples, _: np.random.Generator) -> Samples:
    """Adds the sound at half its amplitude, a little later."""
    delay = round(ECHO_SECONDS * SAMPLE_RATE_HZ)
    later = np.pad(sound[:-delay], (delay, 0)) * np.float32(0.5)
    return (sound + later).astype(np.float32)


def reverberant(sound: Samples, rng: np.random.Generator) -> Samples:
    """In a room: the direct sound, then noise that decays."""
    length = round(ROOM_DECAY_SECONDS * SAMPLE_RATE_HZ)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    response = tail * REVERBERANT_GAIN
    response[0] = 1.0
    size = 1 << (len(sound) + length).bit_length()
    spectrum = np.fft.rfft(sound, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(sound)].astype(np.float32)


def pink(num_samples: int, rng: np.random.Generator) -> Samples:
    """Noise that has as much energy in every octave above 30 Hz, at an RMS of 1: `[n]`."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    frequencies = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE_HZ)
    spectrum[frequencies < 30] = 0
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequencies, 30)), num_samples)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def _white(num_samples: int, rng: np.random.Generator) -> Samples:
    return rng.standard_normal(num_samples).astype(np.float32)


def _room(samples: Samples, rng: np.random.Generator, num_samples: int) -> Samples:
    """Noise as loud as the clip's own pauses."""
    own_db = 10 * np.log10(np.percentile(levels_of(samples), 5) + 1e-12)
    return _white(num_samples, rng) * np.float32(10 ** (np.clip(own_db, *ROOM_DBFS) / 20))
