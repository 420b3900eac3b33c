"""Synthetic speech from flite and espeak-ng: digits, orders, and sentences that get no reply."""

import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backend.errors import SettingsError
from backend.training.data import SAMPLE_RATE, load_audio
from backend.training.domain import (
    DIGIT_WORDS,
    MILKS,
    SLOT_VALUES,
    SUGARS,
    WAKE_WORDS,
    Slot,
    random_order,
    random_wording,
    spoken_text,
)

FLITE_VOICES = ("kal16", "awb", "rms", "slt")
ESPEAK_ACCENTS = (
    *("en-us", "en-us", "en-gb", "en-gb-x-rp"),
    *("en-gb-scotland", "en-029", "en-gb-x-gbclan", "en-us-nyc"),
)


@dataclass(frozen=True, slots=True)
class WordLists:
    """Voices' names, and the words and sentence patterns that no reply belongs to."""

    espeak_variants: list[str]
    near_digits: list[str]
    nouns: list[str]
    verbs: list[str]
    adjectives: list[str]
    sentences: list[str]


def load_word_lists() -> WordLists:
    """The lists that ship beside this module; single words are separated by spaces."""
    text = resources.files("backend.training").joinpath("wordlists.json").read_text("utf-8")
    lists = {
        name: value.split() if isinstance(value, str) else value
        for name, value in json.loads(text).items()
    }
    return WordLists(**lists)


@dataclass(frozen=True, slots=True)
class SpokenText:
    """A line for a voice to read; `phrases` for orders, else empty."""

    kind: str
    text: str
    phrases: tuple[tuple[Slot | None, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Synthesis:
    """A line, the voice that reads it, and how fast and high it reads."""

    line: SpokenText
    voice: str
    rate: float
    pitch: float


def _random_sentence(lists: WordLists, rng: random.Random) -> str:
    if rng.random() < 0.2:
        return " ".join(
            rng.choice(lists.nouns + lists.verbs + lists.adjectives)
            for _ in range(rng.randint(2, 7))
        )
    return rng.choice(lists.sentences).format(
        noun=rng.choice(lists.nouns),
        other=rng.choice(lists.nouns),
        verb=rng.choice(lists.verbs),
        adjective=rng.choice(lists.adjectives),
        digit=rng.choice(DIGIT_WORDS),
        digit2=rng.choice(DIGIT_WORDS),
        digit3=rng.choice(DIGIT_WORDS),
        drink=rng.choice(SLOT_VALUES[Slot.DRINK]),
        size=rng.choice(SLOT_VALUES[Slot.SIZE]),
        milk=rng.choice(MILKS),
        sugar=rng.choice(SUGARS),
    )


def _lines(
    num_orders: int, num_sentences: int, lists: WordLists, rng: random.Random
) -> Iterator[SpokenText]:
    for _ in range(num_orders):
        phrases = random_wording(random_order(rng), rng)
        pairs = tuple((phrase.slot, phrase.text) for phrase in phrases)
        yield SpokenText("order", spoken_text(phrases), pairs)
    for _ in range(num_sentences):
        yield SpokenText("other", _random_sentence(lists, rng))
    for word in lists.near_digits:
        for _ in range(8):
            yield SpokenText("other", word)
    for word in WAKE_WORDS:
        for _ in range(12):
            yield SpokenText("other", word)


def plan(num_orders: int, num_sentences: int, seed: int) -> list[Synthesis]:
    """What to synthesise: lines with a random voice each, and every digit with many voices."""
    rng = random.Random(seed)
    lists = load_word_lists()

    def espeak() -> str:
        return f"espeak:{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(lists.espeak_variants)}"

    def read(line: SpokenText, voice: str) -> Synthesis:
        return Synthesis(line, voice, rng.uniform(0.8, 1.3), rng.uniform(0.0, 1.0))

    jobs = []
    for line in _lines(num_orders, num_sentences, lists, rng):
        flite = f"flite:{rng.choice(FLITE_VOICES)}"
        jobs.append(read(line, flite if rng.random() < 0.5 else espeak()))
    for word in DIGIT_WORDS:
        line = SpokenText("digit", word)
        jobs += [read(line, f"flite:{voice}") for voice in FLITE_VOICES for _ in range(6)]
        jobs += [read(line, espeak()) for _ in range(60)]
    rng.shuffle(jobs)
    return jobs


def _command(job: Synthesis, file: Path) -> list[str]:
    engine, voice = job.voice.split(":", 1)
    if engine == "flite":
        f0 = {"slt": 170.0, "awb": 130.0}.get(voice, 105.0) * (0.85 + 0.35 * job.pitch)
        settings = [f"duration_stretch={1 / job.rate:.3f}", f"int_f0_target_mean={f0:.0f}"]
        options = [part for setting in settings for part in ("--setf", setting)]
        return ["flite", "-voice", voice, *options, "-t", job.line.text, "-o", str(file)]
    return [
        *("espeak-ng", "-v", voice, "-s", f"{165 * job.rate:.0f}"),
        *("-p", f"{20 + 60 * job.pitch:.0f}", "-w", str(file), job.line.text),
    ]


def loud_part(audio: np.ndarray, threshold: float) -> slice:
    """The samples from the first to the last loud one, of `audio` [samples].

    Args:
        audio: of any level.
        threshold: what is loud, where the peak is 0.5.
    """
    peak = float(np.abs(audio).max(initial=0.0))
    window = SAMPLE_RATE // 40
    energy = np.convolve(np.square(audio, dtype=np.float32), np.full(window, 1 / window), "same")
    loud = np.flatnonzero(energy > (2 * peak * threshold) ** 2)
    if loud.size < SAMPLE_RATE // 20:
        return slice(0, audio.size)
    return slice(int(loud[0]), int(loud[-1]) + 1)


def trim_silence(audio: np.ndarray, margin_seconds: float, threshold: float) -> np.ndarray:
    """`audio` [samples] at a peak of 0.5, without what is quieter than `threshold` at its ends."""
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < 1e-4:
        return audio[:0]
    loud = loud_part(audio, threshold)
    margin = int(margin_seconds * SAMPLE_RATE)
    return (audio * (0.5 / peak)).astype(np.float32)[
        max(0, loud.start - margin) : loud.stop + margin
    ]


def synthesise(job: Synthesis) -> np.ndarray | None:
    """The line as int16 samples [samples] at 16 kHz; None where a voice cannot read it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        done = subprocess.run(_command(job, file), capture_output=True, timeout=60, check=False)
        if done.returncode != 0 or not file.exists():
            return None
        audio = trim_silence(load_audio(file), margin_seconds=0.02, threshold=0.008)
    return (audio * 32767).astype(np.int16) if audio.size > SAMPLE_RATE // 10 else None


def synthesise_all(jobs: list[Synthesis], workers: int) -> list[tuple[Synthesis, np.ndarray]]:
    """All of `jobs` that a voice could read, with their audio.

    Raises:
        SettingsError: a synthesiser is not installed.
    """
    for program in ("flite", "espeak-ng"):
        if shutil.which(program) is None:
            raise SettingsError(f"training needs {program}: install it with the system's packages")
    with ThreadPoolExecutor(workers) as pool:
        results = tqdm(pool.map(synthesise, jobs), total=len(jobs), desc="synthetic speech")
        return [(job, audio) for job, audio in zip(jobs, results, strict=True) if audio is not None]
