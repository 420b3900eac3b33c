"""The recordings: manifests, the split into training and held-out, and loading."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from backend.training.domain import (
    DIGIT_WORDS,
    SOUND_REPLIES,
    Slot,
    SpokenReply,
    digit_reply,
    order_reply,
    parse_order,
    phrase_reply,
    wake_word_reply,
)

SAMPLE_RATE = 16_000

HELD_OUT_SPEAKER = "george"
HELD_OUT_FOLD = 4
HELD_OUT_SHARE = 0.15
HELD_OUT_PROMPTS = "ru_RU_f_IvrvoiceRU"

PROMPTS = "prompts"
"""Folder of a telephone exchange's prompts, one folder for each speaker, as Asterisk's packages
have them. None of them is to be answered but digits and phrases in English."""
_ENGLISH_PROMPT = re.compile(rf"{PROMPTS}/en_[^/]*/(?P<name>.*)\.")
_ANSWERED_PROMPT = re.compile(r"hello|bye|thank|sorry|digits/\d\.")
"""Names of those which may hold a digit or a phrase, or their like in another language."""
_PROMPT_SUFFIXES = (".g722", ".gsm", ".wav")
_WORDLESS_PROMPT = re.compile(r"beep|tone|silence|music")


class Kind(StrEnum):
    """What a recording holds."""

    ORDER = "order"
    DIGIT = "digit"
    WAKE_WORD = "wake word"
    SOUND = "sound"
    PROMPT = "prompt"
    DIGIT_PROMPT = "digit prompt"
    PHRASE_PROMPT = "phrase prompt"


@dataclass(frozen=True, slots=True)
class LabelledRecording:
    """One labelled file, relative to the data folder."""

    kind: Kind
    file: str
    label: str
    """The digit's word, the wake word, the sound, or a prompt's words where they are known."""
    speaker: str | None = None
    fold: int | None = None
    order: dict[Slot, str] = field(default_factory=dict)

    @property
    def reply(self) -> SpokenReply | None:
        """The one right answer; None where the model stays silent."""
        match self.kind:
            case Kind.ORDER:
                return order_reply(self.order)
            case Kind.DIGIT | Kind.DIGIT_PROMPT:
                return digit_reply(DIGIT_WORDS.index(self.label))
            case Kind.WAKE_WORD:
                return wake_word_reply(self.label)
            case Kind.SOUND:
                return SOUND_REPLIES[self.label]
            case Kind.PHRASE_PROMPT:
                return phrase_reply(self.label)
            case Kind.PROMPT:
                return None


def is_held_out(recording: LabelledRecording) -> bool:
    """Whether training must not touch a recording; depends on its own labels and name only.

    Digits and prompts are split by speaker, sounds by fold, the rest by a hash of the file's name.
    Of the prompts that are to be answered, digits and whole phrases are held out.
    """
    match recording.kind:
        case Kind.DIGIT:
            return recording.speaker == HELD_OUT_SPEAKER
        case Kind.PROMPT:
            return recording.speaker == HELD_OUT_PROMPTS
        case Kind.DIGIT_PROMPT | Kind.PHRASE_PROMPT:
            return True
        case Kind.SOUND:
            return recording.fold == HELD_OUT_FOLD
        case Kind.ORDER | Kind.WAKE_WORD:
            name = Path(recording.file).name.encode()
            fraction = int.from_bytes(hashlib.sha256(name).digest()[:4], "big") / 2**32
            return fraction < HELD_OUT_SHARE


def _entries(manifest: Path) -> Iterator[dict[str, Any]]:
    with manifest.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_manifests(data: Path) -> list[LabelledRecording]:
    """All labelled recordings under `data`, in the manifests' order, then the prompts, if any."""
    recordings = [
        LabelledRecording(Kind.ORDER, entry["file"], "", order=parse_order(entry["slots"]))
        for entry in _entries(data / "coffee_orders.jsonl")
    ]
    recordings += [
        LabelledRecording(
            Kind.DIGIT,
            entry["file"],
            DIGIT_WORDS[entry["digit"]],
            speaker=entry["speaker"],
        )
        for entry in _entries(data / "digits.jsonl")
    ]
    recordings += [
        LabelledRecording(Kind.WAKE_WORD, entry["file"], entry["word"])
        for entry in _entries(data / "wake_words.jsonl")
    ]
    recordings += [
        LabelledRecording(Kind.SOUND, entry["file"], entry["sound"], fold=entry["fold"])
        for entry in _entries(data / "sounds.jsonl")
    ]
    return recordings + list(_prompts(data))


def _prompts(data: Path) -> Iterator[LabelledRecording]:
    for path in sorted((data / PROMPTS).glob("*/**/*")):
        # The packages hold an empty file or two.
        if path.suffix in _PROMPT_SUFFIXES and path.stat().st_size:
            name = path.relative_to(data).as_posix()
            english = _ENGLISH_PROMPT.match(name)
            words = _words_of_prompts().get(english["name"], "") if english else ""
            if words or not (_ANSWERED_PROMPT.search(name) or _WORDLESS_PROMPT.search(name)):
                yield LabelledRecording(
                    _kind_of_prompt(words), name, words, speaker=Path(name).parts[1]
                )


def _kind_of_prompt(words: str) -> Kind:
    if words in DIGIT_WORDS:
        return Kind.DIGIT_PROMPT
    return Kind.PHRASE_PROMPT if phrase_reply(words) else Kind.PROMPT


@cache
def _words_of_prompts() -> dict[str, str]:
    """What is said in some of the prompts in English, by their names: from Asterisk's own list."""
    text = resources.files("backend.training").joinpath("prompts.json").read_text("utf-8")
    return json.loads(text)


def load_audio(path: Path) -> np.ndarray:
    """A recording that libsndfile reads as mono float32 samples at 16 kHz, [samples]."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1)
    return soxr.resample(mono, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else mono
