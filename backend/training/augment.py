"""What happens to sound between a mouth and a file: speed, room, band, equaliser, noise."""

import random

import numpy as np
import soxr

from backend.training.data import SAMPLE_RATE

ROOM_SECONDS = 0.5


def change_speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """Play `audio` [samples] `factor` times as fast; the pitch follows."""
    return soxr.resample(audio, factor, 1.0, quality="LQ").astype(np.float32)


def _room_response(rng: random.Random) -> np.ndarray:
    """Direct sound, then noise that decays by 60 dB in 0.1 to 0.5 s."""
    noise = np.random.default_rng(rng.getrandbits(32))
    length = int(rng.uniform(0.1, ROOM_SECONDS) * SAMPLE_RATE)
    tail = noise.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail[: int(rng.uniform(0.001, 0.012) * SAMPLE_RATE)] = 0.0
    response = tail * rng.uniform(0.01, 0.1)
    response[0] = 1.0
    return response.astype(np.float32)


def _equaliser(frequencies: np.ndarray, spread_db: float, rng: random.Random) -> np.ndarray:
    """A smooth gain over log frequency, given by six random points."""
    points = np.geomspace(80, 8000, 6)
    gains = [rng.gauss(0.0, spread_db) for _ in points]
    return 10 ** (np.interp(np.log(frequencies + 1), np.log(points), gains) / 20)


def _band(frequencies: np.ndarray, rng: random.Random) -> np.ndarray:
    """A band like a telephone's or a small loudspeaker's, with slopes of about 24 dB an octave."""
    low, high = rng.uniform(60, 350), rng.uniform(3200, 6500)
    above = 1 / np.sqrt(1 + (low / np.maximum(frequencies, 1.0)) ** 8)
    return above / np.sqrt(1 + (frequencies / high) ** 8)


def narrow(audio: np.ndarray) -> np.ndarray:
    """What a line at 8 kHz carries of `audio` [samples]: nothing above 4 kHz, with a steep edge."""
    line = soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE // 2)
    return soxr.resample(line, SAMPLE_RATE // 2, SAMPLE_RATE).astype(np.float32)


def colour(audio: np.ndarray, rng: random.Random, narrow_share: float) -> np.ndarray:
    """`audio` [samples] through a random line, room, band and equaliser, each present or not.

    Args:
        audio: float32.
        rng: decides.
        narrow_share: how often it goes through a line at 8 kHz.
    """
    if rng.random() < narrow_share:
        audio = narrow(audio)
    with_room, with_band, with_equaliser = (rng.random() < p for p in (0.4, 0.25, 0.75))
    if not (with_room or with_band or with_equaliser):
        return audio
    size = 1 << int(audio.size + ROOM_SECONDS * SAMPLE_RATE).bit_length()
    spectrum = np.fft.rfft(audio, size)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    if with_room:
        spectrum *= np.fft.rfft(_room_response(rng), size)
    if with_band:
        spectrum *= _band(frequencies, rng)
    if with_equaliser:
        spectrum *= _equaliser(frequencies, 6.0, rng)
    return np.fft.irfft(spectrum, size)[: audio.size].astype(np.float32)


def random_noise(num_samples: int, rng: random.Random) -> np.ndarray:
    """Noise with a random tilt, a hum, or a band of noise, at an RMS of 1: [samples]."""
    source = np.random.default_rng(rng.getrandbits(32))
    spectrum = np.fft.rfft(source.standard_normal(num_samples))
    frequencies = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
    kind = rng.choice(["tilted", "tilted", "hum", "band"])
    if kind == "tilted":
        spectrum *= np.maximum(frequencies, 30.0) ** -rng.choice([0.0, 0.25, 0.5, 1.0])
    elif kind == "band":
        low = rng.uniform(100, 3000)
        high = low * rng.uniform(1.5, 4.0)
        spectrum *= 1 / (1 + (low / np.maximum(frequencies, 1.0)) ** 4 + (frequencies / high) ** 4)
    noise = np.fft.irfft(spectrum, num_samples)
    time = np.arange(num_samples) / SAMPLE_RATE
    if kind == "hum":
        pitch = rng.uniform(40, 300)
        noise *= 0.1
        for harmonic in range(1, 9):
            phase = rng.uniform(0, 2 * np.pi)
            level = rng.random() / harmonic
            noise += level * np.sin(2 * np.pi * pitch * harmonic * time + phase)
    if rng.random() < 0.4:
        noise *= 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(0.1, 2.0) * time + rng.uniform(0, 6))
    return (noise / rms(noise)).astype(np.float32)


def rms(audio: np.ndarray) -> float:
    """Root of the mean square of `audio` [samples], never zero."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))) + 1e-9)
