"""Synthetic voices that read broad English, kept on disk piece by piece as they are made."""

import itertools
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
from tqdm import tqdm

from backend.training.augment import change_speed
from backend.training.data import SAMPLE_RATE
from backend.training.domain import (
    DIGIT_WORDS,
    WAKE_WORDS,
    intents,
    random_order,
    random_wording,
    spoken_text,
)
from backend.training.knowledge import REPEATED_AFTER, SaidKind, answer, everyday, questions
from backend.training.sentences import Sentences, load_sentences
from backend.training.split import Split, spoken_words
from backend.training.voices import (
    HELD_OUT_VOICES,
    SpokenText,
    Synthesis,
    WordLists,
    accented_digit,
    accented_voice,
    foreign_line,
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
SHORT_SPEECH_OF_A_PIECE = {"kokoro": 36, "piper": 24, "flite": 60, "espeak": 80}
"""The same where lines are short."""
ASKED_SPEECH_OF_A_PIECE = {"kokoro": 16, "piper": 40, "flite": 48, "espeak": 16}
"""The same where a model is asked something."""
SHARE_OF_SHORT_PIECES = 1 / 3
SHARE_OF_ASKED_PIECES = 2 / 3
SHORT_LINES = {
    "digit": 0.34,
    "wake word": 0.1,
    "near digit": 0.12,
    "phrase": 0.2,
    "cut phrase": 0.04,
    "order": 0.2,
}
"""How often what is said in them."""
ASKED_LINES = {"question": 0.62, "outside": 0.1, "repeated": 0.2, "other": 0.08}
"""How often what is said where a model is asked something."""
LONGEST_REPEATED = 8
"""Words that a voice asks to be repeated, beside what asks for it."""
ACCENTED_SHARE = 0.5
"""How many digits of the voices that can are said with an accent."""
FOREIGN_SHARE = 0.3
"""How many of espeak-ng's lines are in another language."""
SPEECH = "speech"
"""In the working folder: where speech to learn from is kept."""
PEOPLE_PREFIX = "people-"
"""Of the names of pieces that people say."""
TRIAL_SENTENCES = 56
NUM_QUESTIONS, NUM_REPEATED = 100, 40
"""That are asked, and put to be repeated, in a trial."""
SPEEDS = (0.86, 0.93, 1.0, 1.0, 1.07, 1.15)
"""How fast a reading is played: pitch and formants follow, as of other people."""


@dataclass(frozen=True, slots=True)
class SpeechClip:
    """A sentence and somebody who says it."""

    text: str
    """Words in lower case; empty where they are not known."""
    voice: str
    audio: np.ndarray
    """int16, [samples]"""


def _kokoro_voice(voices: tuple[str, ...], rng: random.Random) -> str:
    """A voice, or one between two of the same accent."""
    first = rng.choice(voices)
    alike = [voice for voice in voices if voice[0] == first[0]]
    return first if rng.random() < 0.5 else f"{first}*{rng.choice(alike)}"


def _voice(family: str, lists: WordLists, rng: random.Random) -> str:
    """A voice of a family that training may hear."""
    if family == "kokoro":
        return f"english:{_kokoro_voice(TRAINING_VOICES, rng)}"
    return random_voice(family, lists, rng)


def _in_random_order(times: Mapping[str, int], rng: random.Random) -> list[str]:
    """Each family of voices as often as it reads."""
    families = [family for family, count in times.items() for _ in range(count)]
    rng.shuffle(families)
    return families


def plan(sentences: Sentences, piece: int, seed: int) -> Iterator[tuple[Synthesis, float]]:
    """Who reads what in a piece, and the speed at which it is played; in random order."""
    rng = random.Random(f"{seed}/{piece}")
    lists = load_word_lists()
    for family in _in_random_order(SPEECH_OF_A_PIECE, rng):
        voice = _voice(family, lists, rng)
        line = SpokenText("other", sentences.random(rng))
        rate, pitch = rng.uniform(0.8, 1.25), rng.uniform(0.0, 1.0)
        yield Synthesis(line, voice, rate, pitch), rng.choice(SPEEDS)


def plan_short(piece: int, seed: int) -> Iterator[tuple[Synthesis, float]]:
    """The same for a piece of digits, wake words, phrases, orders, and what sounds like them."""
    rng = random.Random(f"{seed}/short/{piece}")
    lists = load_word_lists()
    for family in _in_random_order(SHORT_SPEECH_OF_A_PIECE, rng):
        voice = _voice(family, lists, rng)
        line = _short_line(lists, rng)
        if family == "espeak" and rng.random() < FOREIGN_SHARE:
            line, voice = foreign_line(lists, rng)
        elif (
            line.kind == "digit"
            and family in ("espeak", "kokoro")
            and rng.random() < ACCENTED_SHARE
        ):
            line = accented_digit(line.text, family, lists, rng)
            voice = accented_voice(lists, rng) if family == "espeak" else voice
        rate, pitch = rng.uniform(0.8, 1.3), rng.uniform(0.0, 1.0)
        yield Synthesis(line, voice, rate, pitch), rng.choice(SPEEDS)


def _short_line(lists: WordLists, rng: random.Random) -> SpokenText:
    (kind,) = rng.choices(list(SHORT_LINES), list(SHORT_LINES.values()))
    match kind:
        case "digit":
            return SpokenText(kind, rng.choice(DIGIT_WORDS))
        case "wake word":
            return SpokenText(kind, rng.choice(WAKE_WORDS))
        case "near digit":
            return SpokenText(kind, rng.choice(lists.near_digits))
        case "order":
            return SpokenText(kind, spoken_text(random_wording(random_order(rng), rng)))
        case _:
            words = rng.choice(rng.choice(intents()).wordings).split()
            if kind == "cut phrase" and len(words) > 1:
                words = words[: rng.randrange(1, len(words))]
            return SpokenText(kind, " ".join(words))


def plan_asked(sentences: Sentences, piece: int, seed: int) -> Iterator[tuple[Synthesis, float]]:
    """The same for a piece of questions, words to repeat, and what is said to somebody else."""
    rng = random.Random(f"{seed}/asked/{piece}")
    lists = load_word_lists()
    short = [text for text in sentences.examples if len(text.split()) <= LONGEST_REPEATED]
    for family in _in_random_order(ASKED_SPEECH_OF_A_PIECE, rng):
        voice = _voice(family, lists, rng)
        line = SpokenText("asked", _asked_line(sentences, short, rng))
        rate, pitch = rng.uniform(0.8, 1.3), rng.uniform(0.0, 1.0)
        yield Synthesis(line, voice, rate, pitch), rng.choice(SPEEDS)


def _asked_line(sentences: Sentences, short: list[str], rng: random.Random) -> str:
    (kind,) = rng.choices(list(ASKED_LINES), list(ASKED_LINES.values()))
    match kind:
        case "question":
            groups = _questions_by_group()
            # Sums are many, and easier to tell apart than their number says.
            shares = [math.sqrt(len(wordings)) for wordings in groups]
            (wordings,) = rng.choices(groups, shares)
            return rng.choice(wordings)
        case "outside":
            return rng.choice([text for text in sentences.everyday if text in everyday().asked])
        case "repeated":
            repeated = rng.choice(sentences.everyday if rng.random() < 0.3 else short)
            return f"{rng.choice(REPEATED_AFTER)} {repeated}"
        case _:
            return rng.choice([text for text in sentences.everyday if text in everyday().said])


@cache
def _questions_by_group() -> list[list[str]]:
    """How what is known, and what is not, is asked in training, by groups of the table."""
    groups: dict[str, list[str]] = defaultdict(list)
    for question in questions():
        groups[question.group] += question.wordings_of(Split.TRAINING)
    return [wordings for wordings in groups.values() if wordings]


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
    said = "" if job.line.kind == "foreign" else spoken_words(job.line.words)
    return SpeechClip(said, job.voice, clipped)


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


def synthetic_speech(store: SpeechStore) -> list[SpeechClip]:
    """All that synthetic voices say in a store, without what is there of people."""
    names = [name for name in store.names() if not name.startswith(PEOPLE_PREFIX)]
    return [clip for name in names for clip in store.read(name)]


def keep_training_speech(store: SpeechStore, data: Path, num_pieces: int, seed: int) -> None:
    """Have voices read aloud until there are `num_pieces`; those that are there stay.

    Raises:
        SettingsError: `data` lacks the texts or the voices.
    """
    sentences = load_sentences(data, Split.TRAINING)
    num_short = round(num_pieces * SHARE_OF_SHORT_PIECES)
    plans: dict[str, Iterator[tuple[Synthesis, float]]] = {
        f"asked-{piece:03}": plan_asked(sentences, piece, seed)
        for piece in range(round(num_pieces * SHARE_OF_ASKED_PIECES))
    }
    plans |= {f"short-{piece:03}": plan_short(piece, seed) for piece in range(num_short)}
    plans |= {f"{piece:05}": plan(sentences, piece, seed) for piece in range(num_pieces)}
    for name, jobs in tqdm(plans.items(), desc="synthetic speech", unit="piece"):
        if not store.path(name).exists():
            readings = (read_aloud(job, speed, data / KOKORO_VOICES) for job, speed in jobs)
            store.write(name, [clip for clip in readings if clip is not None])


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


def keep_asked(store: SpeechStore, data: Path, split: Split, seed: int) -> list[SpeechClip]:
    """What is asked of a model and put to it to repeat, in wordings and voices of one split.

    Args:
        store: where it is kept; it is made once.
        data: the texts and voices of `broad_speech.py`.
        split: development or held out.
        seed: chooses the wordings.
    """
    name = f"asked-{split}"
    if not store.path(name).exists():
        rng = random.Random(f"{seed}/asked/{split}")
        wordings = [wording for question in questions() for wording in question.wordings_of(split)]
        sentences = load_sentences(data, split)
        outside = [text for text in sentences.everyday if text in everyday().asked]
        known = rng.sample(
            [text for text in wordings if answer(text)[0] is SaidKind.QUESTION], NUM_QUESTIONS
        )
        outside += [text for text in wordings if answer(text)[0] is SaidKind.OUTSIDE]
        repeated = [
            f"{rng.choice(REPEATED_AFTER)} {spoken_words(text)}"
            for text in rng.sample(sentences.examples, NUM_REPEATED)
        ]
        jobs = [
            Synthesis(SpokenText("asked", text), voice, 1.0, 0.5)
            for text, voice in zip(
                [*known, *outside, *repeated], itertools.cycle(trial_voices(split)), strict=False
            )
        ]
        store.write(name, [c for job in jobs if (c := read_aloud(job, 1.0, data / KOKORO_VOICES))])
    return store.read(name)


def trial_voices(split: Split) -> list[str]:
    """Voices of development, or held out."""
    if split is Split.DEVELOPMENT:
        return [f"english:{voice}" for voice in DEVELOPMENT_VOICES]
    flite = [voice for voice in HELD_OUT_VOICES if voice.startswith("flite")]
    return [*(f"english:{voice}" for voice in HELD_OUT_KOKORO_VOICES), *flite]
