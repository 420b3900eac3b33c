"""Synthetic speech: digits, orders, everyday phrases, and sentences that get no reply."""

import json
import random
import shutil
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr
from tqdm import tqdm

from backend.errors import SettingsError
from backend.training.data import SAMPLE_RATE, load_audio
from backend.training.domain import (
    DIGIT_WORDS,
    MILKS,
    SLOT_VALUES,
    SUGARS,
    Slot,
    intents,
)

FLITE_VOICES = ("kal16", "awb", "rms", "slt")
ESPEAK_ACCENTS = (
    *("en-us", "en-us", "en-gb", "en-gb-x-rp"),
    *("en-gb-scotland", "en-029", "en-gb-x-gbclan", "en-us-nyc"),
)
KOKORO_VOICES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
HELD_OUT_VOICES = ("flite:rms", "kokoro:jf_gongitsune")
HELD_OUT_VARIANTS = ("f5", "m6", "steph2", "Mike", "grandpa", "linda")
"""espeak-ng's, in every accent."""
HELD_OUT_LANGUAGES = ("es", "tr", "cmn", "sv")


def is_held_out_voice(voice: str) -> bool:
    """Whether training must not hear a synthetic voice."""
    return (
        voice in HELD_OUT_VOICES
        or voice.partition("+")[2] in HELD_OUT_VARIANTS
        or voice.removeprefix("espeak:").partition("+")[0] in HELD_OUT_LANGUAGES
    )


@dataclass(frozen=True, slots=True)
class WordLists:
    """Voices' names, and the words and sentence patterns that no reply belongs to."""

    espeak_variants: list[str]
    near_digits: list[str]
    accents: list[str]
    """espeak-ng's names of languages whose speakers also say digits in English."""
    nouns: list[str]
    verbs: list[str]
    adjectives: list[str]
    sentences: list[str]
    accented_digits: dict[str, list[str]]
    """How digits are said with an accent, in espeak-ng's phonemes, by the English word."""
    accented_digits_in_ipa: dict[str, list[str]]
    """The same with tapped and trilled consonants and other vowels of English's, for Kokoro."""
    foreign: dict[str, list[str]]
    """Sentences by espeak-ng's name of their language."""


def load_word_lists() -> WordLists:
    """The lists that ship beside this module; single words are separated by spaces."""
    text = resources.files("backend.training").joinpath("wordlists.json").read_text("utf-8")
    lists: dict[str, Any] = {
        name: value.split() if isinstance(value, str) else value
        for name, value in json.loads(text).items()
    }
    return WordLists(**lists)


@dataclass(frozen=True, slots=True)
class SpokenText:
    """A line for a voice to read."""

    kind: str
    text: str
    """Words, or phonemes: espeak-ng's in double brackets, or IPA between slashes."""

    @property
    def words(self) -> str:
        """What is said, in English words if it is English."""
        return _digits_by_phonemes().get(self.text, self.text)


@cache
def _digits_by_phonemes() -> dict[str, str]:
    lists = load_word_lists()
    return {
        text: digit
        for digit in DIGIT_WORDS
        for text in (
            *(f"[[{phonemes}]]" for phonemes in lists.accented_digits[digit]),
            *(f"/{phonemes}/" for phonemes in lists.accented_digits_in_ipa[digit]),
        )
    }


@dataclass(frozen=True, slots=True)
class Synthesis:
    """A line, the voice that reads it, and how fast and high it reads."""

    line: SpokenText
    voice: str
    rate: float
    pitch: float


def random_sentence(lists: WordLists, rng: random.Random) -> str:
    """Words in a row, or one of the sentence patterns, filled in."""
    if rng.random() < 0.15:
        return " ".join(
            rng.choice(lists.nouns + lists.verbs + lists.adjectives)
            for _ in range(rng.randint(2, 7))
        )
    return rng.choice(lists.sentences).format(
        noun=rng.choice(lists.nouns),
        other=rng.choice(lists.nouns),
        verb=rng.choice(lists.verbs),
        adjective=rng.choice(lists.adjectives),
        adjective2=rng.choice(lists.adjectives),
        digit=rng.choice(DIGIT_WORDS),
        digit2=rng.choice(DIGIT_WORDS),
        digit3=rng.choice(DIGIT_WORDS),
        drink=rng.choice(SLOT_VALUES[Slot.DRINK]),
        size=rng.choice(SLOT_VALUES[Slot.SIZE]),
        milk=rng.choice(MILKS),
        sugar=rng.choice(SUGARS),
    )


def wordings_of_phrases() -> list[SpokenText]:
    """Every wording of every everyday phrase."""
    return [SpokenText("phrase", wording) for intent in intents() for wording in intent.wordings]


def random_voice(family: str, lists: WordLists, rng: random.Random) -> str:
    """The name of a voice that training may hear."""
    while True:
        match family:
            case "flite":
                voice = f"flite:{rng.choice(FLITE_VOICES)}"
            case "espeak":
                accent, variant = rng.choice(ESPEAK_ACCENTS), rng.choice(lists.espeak_variants)
                voice = f"espeak:{accent}+{variant}"
            case "kokoro":
                voices = [v for v in KOKORO_VOICES if f"kokoro:{v}" not in HELD_OUT_VOICES]
                voice = f"kokoro:{'*'.join(rng.sample(voices, 2))}"
            case "piper":
                voice = "piper:joe"
            case _:
                raise ValueError(f"there is no family of voices {family!r}")
        if not is_held_out_voice(voice):
            return voice


def reading(line: SpokenText, voice: str, rng: random.Random) -> Synthesis:
    """A line in a voice, at a random speed and height."""
    return Synthesis(line, voice, rng.uniform(0.8, 1.3), rng.uniform(0.0, 1.0))


def accented_digit(digit: str, family: str, lists: WordLists, rng: random.Random) -> SpokenText:
    """A digit as people say it whose first language or whose English is another one."""
    if family == "espeak":
        return SpokenText("digit", f"[[{rng.choice(lists.accented_digits[digit])}]]")
    return SpokenText("digit", f"/{rng.choice(lists.accented_digits_in_ipa[digit])}/")


def accented_voice(lists: WordLists, rng: random.Random) -> str:
    """A voice of espeak-ng that training may hear, of another language."""
    variants = [name for name in lists.espeak_variants if name not in HELD_OUT_VARIANTS]
    return f"espeak:{rng.choice(lists.accents)}+{rng.choice(variants)}"


def foreign_line(lists: WordLists, rng: random.Random) -> tuple[SpokenText, str]:
    """A sentence, words or numbers in another language, and a voice that reads it."""
    language = rng.choice([name for name in lists.foreign if name not in HELD_OUT_LANGUAGES])
    variant = rng.choice([v for v in lists.espeak_variants if v not in HELD_OUT_VARIANTS])
    sentences = lists.foreign[language]
    words = " ".join(sentences).replace(",", "").split()
    number = " ".join(str(rng.randint(1, 99_999)) for _ in range(rng.randint(1, 3)))
    text = rng.choice(
        [rng.choice(sentences), " ".join(rng.choices(words, k=rng.randint(1, 6))), number]
    )
    return SpokenText("foreign", text), f"espeak:{language}+{variant}"


class Neural(Protocol):
    """A neural synthesiser."""

    sample_rate: int

    def read(self, text: str, voice: str, rate: float, pitch: float) -> np.ndarray:
        """`text` as float32 [samples]."""


_LOADING = threading.Lock()


def _neural(family: str) -> Neural:
    # Two threads that unpack the weights at once trip over each other's file.
    with _LOADING:
        return _load_neural(family)


@cache
def _load_neural(family: str) -> Neural:
    # Imported late: its packages weigh 160 MB, and only synthesis needs them.
    try:
        from backend.training.neural_voices import Joe, Kokoro
    except ImportError as error:
        raise SettingsError(
            "training needs the voices of requirements-voices.txt: use make train or make evaluate"
        ) from error
    return Kokoro() if family == "kokoro" else Joe()


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


def _read_aloud(job: Synthesis) -> np.ndarray | None:
    """The line as float32 samples [samples] at 16 kHz; None where a voice cannot read it."""
    family, _, voice = job.voice.partition(":")
    if family in ("kokoro", "piper"):
        neural = _neural(family)
        audio = neural.read(job.line.text, voice, job.rate, job.pitch)
        return soxr.resample(audio, neural.sample_rate, SAMPLE_RATE)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        done = subprocess.run(_command(job, file), capture_output=True, timeout=60, check=False)
        return load_audio(file) if done.returncode == 0 and file.exists() else None


def synthesise(job: Synthesis) -> np.ndarray | None:
    """The line as int16 samples [samples] at 16 kHz; None where a voice cannot read it."""
    audio = _read_aloud(job)
    if audio is None:
        return None
    audio = trim_silence(audio, margin_seconds=0.02, threshold=0.008)
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
