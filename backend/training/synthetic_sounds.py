"""Sounds made from nothing: alarms and sirens to be answered, tones like music's to be ignored.

Float32 [samples] at 16 kHz with a peak of 0.5.
"""

import random

import numpy as np

from backend.training.data import SAMPLE_RATE


def _seconds(duration: float) -> np.ndarray:
    return np.arange(int(duration * SAMPLE_RATE)) / SAMPLE_RATE


def _tone(frequency: np.ndarray, harmonics: int, decay: float) -> np.ndarray:
    """A tone of `frequency` in Hz [samples]; each harmonic is `decay` times the one before."""
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    partials = [
        decay**number * np.sin((number + 1) * phase)
        for number in range(harmonics)
        if (number + 1) * frequency.max() < SAMPLE_RATE / 2
    ]
    return np.sum(partials, axis=0)


def _edges(audio: np.ndarray, seconds: float) -> np.ndarray:
    """Faded in and out, so that it does not click."""
    size = min(audio.size // 2, max(1, int(seconds * SAMPLE_RATE)))
    ramp = np.linspace(0.0, 1.0, size)
    audio[:size] *= ramp
    audio[audio.size - size :] *= ramp[::-1]
    return audio


def _beeps(rng: random.Random) -> np.ndarray:
    """Smoke and carbon-monoxide alarms, alarm clocks: groups of equal beeps, and a pause."""
    pattern = rng.choice(["three", "four", "steady", "clock"])
    on, off, count, pause = {
        "three": (0.5, 0.5, 3, 1.0),  # ISO 8201, smoke
        "four": (0.1, 0.1, 4, rng.uniform(0.8, 2.0)),
        "steady": (rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.6), 1, 0.0),
        "clock": (0.08, 0.07, 4, 0.5),
    }[pattern]
    stretch = rng.uniform(0.8, 1.2)
    frequency = rng.choice([520.0, rng.uniform(1800, 2600), rng.uniform(2700, 3600)])
    harmonics, decay = rng.choice([(1, 0.0), (3, 0.3), (8, 0.6)])
    beep = _tone(np.full(int(on * stretch * SAMPLE_RATE), frequency), harmonics, decay)
    beep = np.concatenate([_edges(beep, 0.004), np.zeros(int(off * stretch * SAMPLE_RATE))])
    group = np.concatenate([*[beep] * count, np.zeros(int(pause * stretch * SAMPLE_RATE))])
    return np.resize(group, int(rng.uniform(2.5, 5.0) * SAMPLE_RATE))


def _siren(rng: random.Random) -> np.ndarray:
    """Wail, yelp, two tones in turn, and the slow wail of a motor."""
    time = _seconds(rng.uniform(3.0, 6.0))
    low, ratio = rng.uniform(350, 800), rng.uniform(1.3, 2.6)
    kind = rng.choice(["wail", "yelp", "two tones", "whoop", "motor"])
    rate = {
        "wail": rng.uniform(0.15, 0.5),
        "motor": rng.uniform(0.08, 0.2),
        "yelp": rng.uniform(2.0, 5.0),
        "two tones": rng.uniform(0.6, 1.3),
        "whoop": rng.uniform(0.5, 1.2),
    }[kind]
    turn = (rate * time + rng.random()) % 1.0
    if kind == "two tones":
        ratio, height = rng.uniform(1.2, 1.5), (turn > 0.5).astype(float)
    elif kind == "whoop":
        height = turn
    else:
        height = 0.5 - 0.5 * np.cos(2 * np.pi * turn)
    passing = 2 ** (rng.uniform(-0.1, 0.1) * time / time[-1])  # it comes nearer, or goes
    frequency = low * ratio**height * passing
    return _edges(_tone(frequency, rng.randint(3, 12), rng.uniform(0.4, 0.95)), 0.05)


def _far_off(audio: np.ndarray, rng: random.Random) -> np.ndarray:
    """As heard in a street, a hall or another room: echoes, and less of what is high."""
    noise = np.random.default_rng(rng.getrandbits(32))
    length = int(rng.uniform(0.3, 2.0) * SAMPLE_RATE)
    echoes = noise.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    echoes *= 10 ** (rng.uniform(-6.0, 9.0) / 20) / np.linalg.norm(echoes)
    echoes[0] += 1.0
    size = 1 << int(audio.size + length).bit_length()
    spectrum = np.fft.rfft(audio, size) * np.fft.rfft(echoes, size)
    highest = rng.uniform(1500, 8000)
    spectrum /= np.sqrt(1 + (np.fft.rfftfreq(size, 1 / SAMPLE_RATE) / highest) ** 2)
    heard = np.fft.irfft(spectrum, size)[: audio.size]
    drift = np.interp(
        np.arange(audio.size),
        np.linspace(0, audio.size, 6),
        [rng.uniform(0.4, 1) for _ in "123456"],
    )
    return _edges(heard * drift, 0.02)


def _melody(rng: random.Random) -> np.ndarray:
    """Notes of a scale, one after the other or in chords, plucked or held."""
    root = rng.uniform(110, 500)
    scale = rng.choice([(0, 2, 4, 5, 7, 9, 11, 12), (0, 2, 3, 5, 7, 8, 10, 12), (0, 3, 5, 7, 10)])
    beat = rng.uniform(0.12, 0.6)
    harmonics, decay = rng.randint(2, 8), rng.uniform(0.2, 0.7)
    fading = rng.uniform(0.0, 6.0)
    notes = []
    for _ in range(int(rng.uniform(2.5, 6.0) / beat)):
        time = _seconds(beat * rng.choice([1, 1, 1, 2]))
        degrees = rng.sample(scale, rng.choice([1, 1, 1, 3]))
        chord = np.sum(
            [
                _tone(np.full(time.size, root * 2 ** (degree / 12)), harmonics, decay)
                for degree in degrees
            ],
            axis=0,
        )
        notes.append(_edges(chord * np.exp(-fading * time) * rng.uniform(0.5, 1.0), 0.01))
    return np.concatenate(notes)


def _held_tone(rng: random.Random) -> np.ndarray:
    """One tone or two together, as of a dial tone, a whistle or a machine."""
    time = _seconds(rng.uniform(1.0, 5.0))
    tones = [
        _tone(np.full(time.size, rng.uniform(80, 2000)), rng.randint(1, 6), 0.5)
        for _ in range(rng.choice([1, 1, 2]))
    ]
    return _edges(np.sum(tones, axis=0), 0.1)


def _scaled(audio: np.ndarray) -> np.ndarray:
    return (audio * (0.5 / np.abs(audio).max())).astype(np.float32)


def alarm(rng: random.Random) -> np.ndarray:
    """A smoke alarm, another beeping alarm, or a siren; 2.5 to 6 s."""
    made = _beeps(rng) if rng.random() < 0.5 else _siren(rng)
    return _scaled(_far_off(made, rng) if rng.random() < 0.5 else made)


def music(rng: random.Random) -> np.ndarray:
    """A melody, chords or a held tone; 1 to 8 s."""
    return _scaled(_melody(rng) if rng.random() < 0.75 else _held_tone(rng))
