"""What may be learnt from, what a run is followed by, and what is only ever reported."""

import hashlib
import re
from enum import StrEnum

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


class Split(StrEnum):
    """What a sentence, a voice or a recording may be used for."""

    TRAINING = "training"
    DEVELOPMENT = "development"
    """To follow a run and to choose by."""
    HELD_OUT = "held-out"
    """To be reported, and never to be chosen by."""


def spoken_words(text: str) -> str:
    """`text` in lower case, without what is not said; its numbers must be words already."""
    return " ".join(_WORD.findall(text.lower().replace("’", "'")))


def side(name: str, share: float) -> Split:
    """Where something belongs, by a hash of its name.

    Args:
        name: what tells it from all others.
        share: of all that are for development, and again that are held out.
    """
    digest = hashlib.sha256(name.encode()).digest()
    fraction = int.from_bytes(digest[:4], "big") / 2**32
    if fraction < share:
        return Split.DEVELOPMENT
    return Split.HELD_OUT if fraction < 2 * share else Split.TRAINING


def split_of(text: str, share: float) -> Split:
    """The same for a sentence: by its words, so that no wording is on two sides."""
    return side(spoken_words(text), share)
