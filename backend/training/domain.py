"""What the embedded model knows: labels, the wordings they are spoken in, and the fixed replies."""

import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WAKE_WORDS = ("alexa", "computer", "jarvis", "smart mirror", "snowboy", "view glass")

SYSTEM_PROMPT = "Answer what you know."


class Slot(StrEnum):
    """The parts of a coffee order, named as in the labels."""

    SIZE = "size"
    ROAST = "roast"
    DRINK = "coffeeDrink"
    SHOTS = "numberOfShots"
    MILK = "milkAmount"
    SUGAR = "sugarAmount"


NAMED_TOGETHER = (Slot.SIZE, Slot.ROAST, Slot.DRINK)
NAMED_APART = (Slot.SHOTS, Slot.MILK, Slot.SUGAR)
BEFORE_DRINK = (Slot.SIZE, Slot.ROAST, Slot.SHOTS)
AFTER_DRINK = (Slot.MILK, Slot.SUGAR)

AMOUNTS = ("a lot of", "lots of", "some", "a bit of", "a little bit of")
MILKS = ("cream", "almond milk", "soy milk", "milk", "whole milk", "skim milk")
SUGARS = ("brown sugar", "sugar", "sweetener")


def _with_amounts(things: tuple[str, ...]) -> tuple[str, ...]:
    return things + tuple(f"{amount} {thing}" for amount in AMOUNTS for thing in things)


SLOT_VALUES: Mapping[Slot, tuple[str, ...]] = {
    Slot.SIZE: (
        "small",
        "medium",
        "large",
        "eight ounce",
        "twelve ounce",
        "sixteen ounce",
        "twenty ounce",
    ),
    Slot.ROAST: ("light roast", "medium roast", "dark roast"),
    Slot.DRINK: (
        "coffee",
        "iced coffee",
        "drip coffee",
        "house coffee",
        "mocha",
        "iced mocha",
        "cappuccino",
        "americano",
        "latte",
        "espresso",
    ),
    Slot.SHOTS: ("single shot", "double shot", "triple shot"),
    Slot.MILK: _with_amounts(MILKS),
    Slot.SUGAR: _with_amounts(SUGARS),
}

OPENINGS = tuple(
    f"{opening} {article}"
    for opening in (
        "brew",
        "can i get",
        "can i have",
        "i want",
        "get me",
        "give me",
        "i'd like",
        "make me",
        "may i have",
    )
    for article in ("a", "an")
)

Order = Mapping[Slot, str]
StatedAbility = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class SpokenReply:
    """One spoken turn of the model."""

    emotion: str
    text: str


SOUND_REPLIES: Mapping[str, SpokenReply | None] = {
    "baby cry": SpokenReply("urgent", "I hear a baby crying."),
    "fire crackling": SpokenReply("urgent", "I hear a fire."),
    "chainsaw": SpokenReply("urgent", "I hear a chainsaw."),
    "dog bark": SpokenReply("surprise", "I hear a dog barking."),
    "person sneeze": SpokenReply("happy", "Bless you!"),
    "rooster": SpokenReply("happy", "Good morning!"),
    "alarm": SpokenReply("urgent", "I hear an alarm."),
    "rain": None,
    "sea waves": None,
    "clock tick": None,
    "helicopter": None,
    "music": None,
}


def digit_reply(digit: int) -> SpokenReply:
    """The reply to a spoken digit, 0 to 9."""
    return SpokenReply("normal", f"You said {DIGIT_WORDS[digit]}.")


def wake_word_reply(word: str) -> SpokenReply:
    """The reply to one of WAKE_WORDS."""
    return SpokenReply("surprise", f"Did you say {word}?")


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing that people say, in several wordings, and its reply."""

    name: str
    reply: SpokenReply
    wordings: tuple[str, ...]


@cache
def intents() -> tuple[Intent, ...]:
    """The everyday phrases that ship beside this module."""
    text = resources.files("backend.training").joinpath("phrases.json").read_text("utf-8")
    return tuple(
        Intent(
            entry["name"], SpokenReply(entry["emotion"], entry["reply"]), tuple(entry["wordings"])
        )
        for entry in json.loads(text)
    )


_SHORT_FORMS = (
    (r"\bi'm\b", "i am"),
    (r"\b(what|that|it|how)'s\b", r"\1 is"),
    (r"\b(so|very|really|please|now)\b", ""),
)


def _plain(text: str) -> str:
    """`text` without short forms, and without words that do not change what is meant."""
    for pattern, replacement in _SHORT_FORMS:
        text = re.sub(pattern, replacement, text)
    return " ".join(text.split())


@cache
def _intent_of_plain_text() -> dict[str, Intent]:
    return {_plain(wording): intent for intent in intents() for wording in intent.wordings}


def phrase_reply(text: str) -> SpokenReply | None:
    """The reply to an everyday phrase; None where it is none."""
    intent = _intent_of_plain_text().get(_plain(text))
    return intent.reply if intent else None


def order_reply(order: Order) -> SpokenReply:
    """The reply to a complete coffee order; `order` must name a drink."""
    if Slot.DRINK not in order:
        raise ValueError(f"an order names a {Slot.DRINK}, this one has only {sorted(order)}")
    together = " ".join(order[slot] for slot in NAMED_TOGETHER if slot in order)
    apart = [order[slot] for slot in NAMED_APART if slot in order]
    return SpokenReply("happy", f"Coming up: {', '.join([together, *apart])}.")


def parse_order(slots: Mapping[str, str]) -> dict[Slot, str]:
    """Labels of a recording as an order, checked against the known values."""
    order = {Slot(name): value.strip() for name, value in slots.items()}
    for slot, value in order.items():
        if value not in SLOT_VALUES[slot]:
            raise ValueError(f"unknown {slot} {value!r}")
    return order


@dataclass(frozen=True, slots=True)
class Phrase:
    """A run of words of an order: a slot's value, or (slot None) an opening, `with`, `and`."""

    slot: Slot | None
    text: str


def _orders_of(slots: tuple[Slot, ...], order: Order) -> Iterator[tuple[Slot, ...]]:
    return itertools.permutations([slot for slot in slots if slot in order])


def wordings(order: Order) -> Iterator[list[Phrase]]:
    """Every way in which `order` may be spoken, by the grammar of the recordings."""
    for opening, before, after in itertools.product(
        OPENINGS, _orders_of(BEFORE_DRINK, order), _orders_of(AFTER_DRINK, order)
    ):
        phrases = [Phrase(None, opening)]
        phrases += [Phrase(slot, order[slot]) for slot in (*before, Slot.DRINK)]
        for joint, slot in zip(("with", "and"), after, strict=False):
            phrases += [Phrase(None, joint), Phrase(slot, order[slot])]
        yield phrases


def random_order(rng: random.Random) -> dict[Slot, str]:
    """An order with every optional slot present half of the time."""
    return {
        slot: rng.choice(values)
        for slot, values in SLOT_VALUES.items()
        if slot is Slot.DRINK or rng.random() < 0.5
    }


def random_wording(order: Order, rng: random.Random) -> list[Phrase]:
    """One of the wordings of `order`, with the article that fits the next word."""
    phrases = rng.choice(list(wordings(order)))
    opening = phrases[0].text.rsplit(" ", 1)[0]
    article = "an" if phrases[1].text[0] in "aei" else "a"
    return [Phrase(None, f"{opening} {article}"), *phrases[1:]]


def spoken_text(phrases: list[Phrase]) -> str:
    """The words of a wording."""
    return " ".join(phrase.text for phrase in phrases)


def order_grammar(order: Order) -> str:
    """The wordings of `order` as a JSGF grammar."""

    def any_of(alternatives: list[str]) -> str:
        return f"({' | '.join(alternatives)})"

    parts = [any_of(list(OPENINGS))]
    if any(slot in order for slot in BEFORE_DRINK):
        parts.append(
            any_of([" ".join(order[s] for s in slots) for slots in _orders_of(BEFORE_DRINK, order)])
        )
    parts.append(order[Slot.DRINK])
    if any(slot in order for slot in AFTER_DRINK):
        parts.append(
            "with "
            + any_of(
                [" and ".join(order[s] for s in slots) for slots in _orders_of(AFTER_DRINK, order)]
            )
        )
    return f"#JSGF V1.0;\ngrammar order;\npublic <order> = {' '.join(parts)};\n"


@dataclass(frozen=True, slots=True)
class Span:
    """A phrase of an order: words `first` to `stop` (exclusive). No slot: opening, with, and."""

    slot: Slot | None
    text: str
    first: int
    stop: int


def _phrase_table() -> list[tuple[Slot | None, str]]:
    phrases: list[tuple[Slot | None, str]] = [(None, opening) for opening in OPENINGS]
    phrases += [(None, "with"), (None, "and")]
    phrases += [(slot, value) for slot, values in SLOT_VALUES.items() for value in values]
    return sorted(phrases, key=lambda phrase: -len(phrase[1]))


def spans_of(text: str) -> tuple[Span, ...]:
    """The phrases of an order's wording, longest match first; empty where it does not parse."""
    spans: list[Span] = []
    rest, first = text, 0
    table = _phrase_table()
    while rest:
        for slot, phrase in table:
            if rest == phrase or rest.startswith(phrase + " "):
                stop = first + len(phrase.split())
                spans.append(Span(slot, phrase, first, stop))
                rest, first = rest[len(phrase) :].lstrip(), stop
                break
        else:
            return ()
    return tuple(spans)


def order_of(words: str) -> Order | None:
    """What is ordered in `words`; None where it is no whole order."""
    spans = spans_of(words)
    named = [span for span in spans if span.slot is not None]
    order = {span.slot: span.text for span in named if span.slot is not None}
    is_whole = bool(spans) and spans[0].text in OPENINGS and spans[-1].slot is not None
    return order if is_whole and Slot.DRINK in order and len(order) == len(named) else None


def abilities() -> list[StatedAbility]:
    """What the model answers, as a checkpoint's config states it.

    Each has `group`, `heard`, `example` (words to say; None for a sound), `reply` and `emotion`.
    """
    order = {Slot.SIZE: "large", Slot.DRINK: "iced coffee", Slot.MILK: "soy milk"}
    request = next(said for said in wordings(order) if said[0].text == "can i get a")
    names = ", ".join(WAKE_WORDS)
    answered = [
        ("orders", "a coffee order", spoken_text(request), order_reply(order)),
        ("digits", "a digit from zero to nine", DIGIT_WORDS[7], digit_reply(7)),
        ("wake words", f"one of {names}", WAKE_WORDS[1], wake_word_reply(WAKE_WORDS[1])),
        *(("sounds", sound, None, reply) for sound, reply in SOUND_REPLIES.items() if reply),
        *(("phrases", intent.name, intent.wordings[0], intent.reply) for intent in intents()),
    ]
    return [
        {
            "group": group,
            "heard": _written(heard),
            "example": example and _written(example),
            "reply": reply.text,
            "emotion": reply.emotion,
        }
        for group, heard, example, reply in answered
    ]


def _written(text: str) -> str:
    return re.sub(r"\bi\b", "I", text)
