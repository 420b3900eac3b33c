"""Everyday questions and their answers: the table beside this module, with its rows filled in."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import yaml

from backend.training.domain import (
    DIGIT_WORDS,
    WAKE_WORDS,
    SpokenReply,
    digit_reply,
    order_of,
    order_reply,
    phrase_reply,
    wake_word_reply,
)
from backend.training.split import Split, split_of, spoken_words

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
OUTSIDE = "outside"
"""The group of what is asked and not known."""
REPEATED_AFTER = ("repeat after me", "say")
"""What comes before words that are to be said again."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to be asked, in several wordings, and its answer."""

    group: str
    reply: SpokenReply
    wordings: tuple[str, ...]
    """Words in lower case; the last one is held out where there are several."""

    def wordings_of(self, split: Split) -> tuple[str, ...]:
        """How it is asked in training, in development, and where it is reported.

        What is not known has one wording each: those are divided by a hash of their words.
        """
        if len(self.wordings) == 1:
            return self.wordings if split_of(self.wordings[0], 0.2) is split else ()
        match split:
            case Split.HELD_OUT:
                return self.wordings[-1:]
            case Split.DEVELOPMENT:
                return self.wordings[-2:-1]
            case Split.TRAINING:
                return self.wordings[:-2]


def _following(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(names, [*names[1:], names[0]], strict=True))


def _made_rows(name: str) -> Sequence[tuple[str, ...]]:
    """Rows that would be tedious to write down."""
    match name:
        case "sums":
            return [
                (NUMBERS[a], NUMBERS[b], NUMBERS[a + b])
                for a in range(len(NUMBERS))
                for b in range(len(NUMBERS) - a)
            ]
        case "differences":
            return [
                (NUMBERS[a], NUMBERS[b], NUMBERS[a - b])
                for a in range(len(NUMBERS))
                for b in range(a + 1)
            ]
        case "numbers":
            return list(itertools.pairwise(NUMBERS))
        case "days":
            return _following(DAYS)
        case "months":
            return _following(MONTHS)
        case _:
            raise ValueError(f"there are no rows called {name!r}")


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _questions(group: str, entry: dict[str, Any]) -> Iterator[Question]:
    columns = entry.get("columns", ())
    rows = entry.get("rows", [()])
    for row in _made_rows(rows) if isinstance(rows, str) else rows:
        filled = dict(zip(columns, row, strict=True))
        yield Question(
            group,
            SpokenReply(
                entry.get("emotion", "normal"), _capitalised(entry["answer"].format(**filled))
            ),
            tuple(spoken_words(wording.format(**filled)) for wording in entry["asked"]),
        )


@cache
def questions() -> tuple[Question, ...]:
    """All of the table."""
    text = resources.files("backend.training").joinpath("knowledge.yaml").read_text("utf-8")
    table = yaml.safe_load(text)
    outside = table.pop(OUTSIDE)
    known = [
        question
        for group, entries in table.items()
        for entry in entries
        for question in _questions(group, entry)
    ]
    unknown = [
        Question(OUTSIDE, SpokenReply("normal", outside["answer"]), (spoken_words(asked),))
        for asked in outside["asked"]
    ]
    return (*known, *unknown)


@cache
def _question_of_wording() -> dict[str, Question]:
    return {wording: question for question in questions() for wording in question.wordings}


@dataclass(frozen=True, slots=True)
class Everyday:
    """Sentences that ship beside this module, and that the table of questions does not know."""

    asked: frozenset[str]
    """Of an assistant: questions and orders."""
    said: frozenset[str]
    """Of people to each other."""


@cache
def everyday() -> Everyday:
    """What people ask an assistant, and say to each other."""
    text = resources.files("backend.training").joinpath("everyday.json").read_text("utf-8")
    lists = json.loads(text)
    return Everyday(frozenset(lists["asked"]), frozenset(lists["said"]))


@cache
def outside_reply() -> SpokenReply:
    """What is replied to what is asked and not known."""
    return next(question.reply for question in questions() if question.group == OUTSIDE)


class SaidKind(StrEnum):
    """What words are to the embedded model."""

    DIGIT = "digit"
    WAKE_WORD = "wake word"
    ORDER = "order"
    PHRASE = "phrase"
    QUESTION = "question"
    OUTSIDE = "outside"
    """Asked of it, and not known."""
    REPEATED = "repeated"
    OTHER = "other"
    """Not for it: nothing is replied."""
    UNKNOWN = "unknown"
    """Words of another language, or words that are not told: nothing is replied."""


def answer(words: str) -> tuple[SaidKind, SpokenReply | None]:
    """What words are, and what is right to reply to them.

    Args:
        words: in lower case, with spaces between them; empty where they are not known.
    """
    if not words:
        return SaidKind.UNKNOWN, None
    if words in DIGIT_WORDS:
        return SaidKind.DIGIT, digit_reply(DIGIT_WORDS.index(words))
    if words in WAKE_WORDS:
        return SaidKind.WAKE_WORD, wake_word_reply(words)
    if (phrase := phrase_reply(words)) is not None:
        return SaidKind.PHRASE, phrase
    if (question := _question_of_wording().get(words)) is not None:
        is_outside = question.group == OUTSIDE
        return SaidKind.OUTSIDE if is_outside else SaidKind.QUESTION, question.reply
    if (order := order_of(words)) is not None:
        return SaidKind.ORDER, order_reply(order)
    if words in everyday().asked:
        return SaidKind.OUTSIDE, outside_reply()
    for opening in REPEATED_AFTER:
        repeated = words.removeprefix(f"{opening} ")
        if repeated not in (words, ""):
            return SaidKind.REPEATED, SpokenReply("normal", f"{_capitalised(repeated)}.")
    return SaidKind.OTHER, None
