"""Synthetic voices that read broad English, kept on disk piece by piece as they are made."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
from tqdm import tqdm

from backend.training.augment import change_speed
from backend.training.data import SAMPLE_RATE
from backend.training.sentences import Sentences, load_sentences
from backend.training.split import Split, spoken_words
from backend.training.voices import (
    HELD_OUT_VOICES,
    SpokenText,
    Synthesis,
    load_word_lists,
    random_voice,
    synthesise,
    trim_silence,
)

if TYPE_CHECKING:
    from backend.training.neural_voices import EnglishKokoro

KOKORO_VOICES = "voices"
"""Folder of Kokoro's voices, as the npm package `kokoro-js` holds them."""
DEVELOPMENT_VOICES = ("af_nova", "am_echo", "bf_lily", "bm_daniel")
HELD_OUT_KOKORO_VOICES = ("af_sarah", "am_liam", "bf_alice", "bm_lewis")
TRAINING_VOICES = (
    *("af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nicole"),
    *("af_river", "af_sky", "am_adam", "am_eric", "am_fenrir", "am_michael", "am_onyx"),
    *("am_puck", "am_santa", "bf_emma", "bf_isabella", "bm_fable", "bm_george"),
)
SPEECH_OF_A_PIECE = {"kokoro": 14, "piper": 40, "flite": 40, "espeak": 6}
"""How many sentences of a piece each family of voices reads: the dear ones are the best."""
TRIAL_SENTENCES = 56
SPEEDS = (0.86, 0.93, 1.0, 1.0, 1.07, 1.15)
"""How fast a reading is played: pitch and formants follow, as of other people."""


@dataclass(frozen=True, slots=True)
class SpeechClip:
    """A sentence and somebody who says it."""

    text: str
    """Words in lower case."""
    voice: str
    audio: np.ndarray
    """int16, [samples]"""


def _kokoro_voice(voices: tuple[str, ...], rng: random.Random) -> str:
    """A voice, or one between two of the same accent."""
    first = rng.choice(voices)
    alike = [voice for voice in voices if voice[0] == first[0]]
    return first if rng.random() < 0.5 else f"{first}*{rng.choice(alike)}"


def plan(sentences: Sentences, piece: int, seed: int) -> Iterator[tuple[Synthesis, float]]:
    """Who reads what in a piece, and the speed at which it is played; in random order."""
    rng = random.Random(f"{seed}/{piece}")
    lists = load_word_lists()
    families = [family for family, times in SPEECH_OF_A_PIECE.items() for _ in range(times)]
    rng.shuffle(families)
    for family in families:
        voice = (
            f"english:{_kokoro_voice(TRAINING_VOICES, rng)}"
            if family == "kokoro"
            else random_voice(family, lists, rng)
        )
        line = SpokenText("other", sentences.random(rng))
        rate, pitch = rng.uniform(0.8, 1.25), rng.uniform(0.0, 1.0)
        yield Synthesis(line, voice, rate, pitch), rng.choice(SPEEDS)


@cache
def _english_kokoro(folder: Path) -> "EnglishKokoro":
    # Imported late, as in `voices.py`: its packages are large, and only synthesis needs them.
    from backend.training.neural_voices import EnglishKokoro

    return EnglishKokoro(folder)


def read_aloud(job: Synthesis, speed: float, voices: Path) -> SpeechClip | None:
    """The line, spoken; None where a voice cannot read it."""
    family, _, voice = job.voice.partition(":")
    if family == "english":
        kokoro = _english_kokoro(voices)
        audio = kokoro.read(job.line.text, voice, job.rate, job.pitch)
        audio = soxr.resample(audio, kokoro.sample_rate, SAMPLE_RATE)
        samples = trim_silence(audio, margin_seconds=0.05, threshold=0.008) * 32767
    else:
        read = synthesise(job)
        if read is None:
            return None
        samples = read.astype(np.float32)
    if speed != 1.0:
        samples = change_speed(samples, speed)
    if samples.size < SAMPLE_RATE // 5:
        return None
    clipped = np.clip(samples, -32767, 32767).astype(np.int16)
    return SpeechClip(spoken_words(job.line.text), job.voice, clipped)


class SpeechStore:
    """Pieces of speech in a folder, each a file that is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where a piece is kept."""
        return self.folder / f"{name}.npz"

    def names(self) -> list[str]:
        """The pieces there are, in order."""
        return sorted(path.stem for path in self.folder.glob("*.npz"))

    def num_taught(self) -> int:
        """How many of the pieces have what a teacher makes of them beside them."""
        return len(list(self.folder.glob("*.npy")))

    def write(self, name: str, speech: list[SpeechClip]) -> None:
        """Keep a piece, whole or not at all."""
        path = self.path(name)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                audio=np.concatenate([spoken.audio for spoken in speech]),
                ends=np.cumsum([spoken.audio.size for spoken in speech]),
                said=json.dumps([[spoken.text, spoken.voice] for spoken in speech]),
            )
        partial.replace(path)

    def read(self, name: str) -> list[SpeechClip]:
        """A piece that is there."""
        with np.load(self.path(name)) as file:
            audio = np.split(file["audio"], file["ends"][:-1])
            said = json.loads(str(file["said"]))
        return [
            SpeechClip(text, voice, part) for (text, voice), part in zip(said, audio, strict=True)
        ]


def keep_training_speech(store: SpeechStore, data: Path, num_pieces: int, seed: int) -> None:
    """Have voices read aloud until there are `num_pieces`; those that are there stay.

    Raises:
        SettingsError: `data` lacks the texts or the voices.
    """
    sentences = load_sentences(data, Split.TRAINING)
    for piece in tqdm(range(num_pieces), desc="synthetic speech", unit="piece"):
        name = f"{piece:05}"
        if not store.path(name).exists():
            jobs = plan(sentences, piece, seed)
            store.write(name, [c for job in jobs if (c := read_aloud(*job, data / KOKORO_VOICES))])


def keep_trial(store: SpeechStore, data: Path, split: Split, seed: int) -> None:
    """Sentences of development or held out, in voices that training never hears, made once.

    Half of them are everyday sentences, and half WordNet's.
    """
    if store.path(split).exists():
        return
    sentences = load_sentences(data, split)
    rng = random.Random(f"{seed}/{split}")
    texts = [
        text
        for kind in (sentences.everyday, sentences.examples)
        for text in rng.sample(kind, TRIAL_SENTENCES // 2)
    ]
    jobs = [
        Synthesis(SpokenText("other", text), voice, 1.0, 0.5)
        for text, voice in zip(texts, itertools.cycle(trial_voices(split)), strict=False)
    ]
    store.write(split, [c for job in jobs if (c := read_aloud(job, 1.0, data / KOKORO_VOICES))])


def trial_voices(split: Split) -> list[str]:
    """Voices of development, or held out."""
    if split is Split.DEVELOPMENT:
        return [f"english:{voice}" for voice in DEVELOPMENT_VOICES]
    flite = [voice for voice in HELD_OUT_VOICES if voice.startswith("flite")]
    return [*(f"english:{voice}" for voice in HELD_OUT_KOKORO_VOICES), *flite]
