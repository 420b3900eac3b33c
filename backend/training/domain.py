"""What the embedded model knows: labels, the wordings they are spoken in, and the fixed replies."""

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WAKE_WORDS = ("alexa", "computer", "jarvis", "smart mirror", "snowboy", "view glass")

SYSTEM_PROMPT = "Answer digits and coffee orders."


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


@dataclass(frozen=True, slots=True)
class Reply:
    """One spoken turn of the model."""

    emotion: str
    text: str


def digit_reply(digit: int) -> Reply:
    """The reply to a spoken digit, 0 to 9."""
    return Reply("normal", f"You said {DIGIT_WORDS[digit]}.")


def order_reply(order: Order) -> Reply:
    """The reply to a complete coffee order; `order` must name a drink."""
    if Slot.DRINK not in order:
        raise ValueError(f"an order names a {Slot.DRINK}, this one has only {sorted(order)}")
    together = " ".join(order[slot] for slot in NAMED_TOGETHER if slot in order)
    apart = [order[slot] for slot in NAMED_APART if slot in order]
    return Reply("happy", f"Coming up: {', '.join([together, *apart])}.")


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


def vocabulary() -> list[str]:
    """Every word the model must tell apart, sorted."""
    spoken = [*OPENINGS, "with and", *WAKE_WORDS, *DIGIT_WORDS]
    for values in SLOT_VALUES.values():
        spoken.extend(values)
    return sorted(set(re.findall(r"[a-z']+", " ".join(spoken))))
