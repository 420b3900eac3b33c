"""What was heard and what was answered, counted and drawn."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from backend.training.domain import (
    DIGIT_WORDS,
    SOUND_REPLIES,
    WAKE_WORDS,
    digit_reply,
    intents,
    wake_word_reply,
)
from backend.training.trials import HALF_ORDER_LABEL, ORDER_LABEL

NOTHING = "nothing"
OTHER = "other or several"
ORDER_BEGINNING = "Coming up: "

WIDTH_INCHES = 16
DOTS_PER_INCH = 100
INCHES_PER_ROW = 0.22
MARGIN_ROWS = 18
"""Room for a panel's title and the names of its columns, above and below."""


@dataclass(frozen=True, slots=True)
class Confusions:
    """How often each answer was given to each thing heard."""

    title: str
    heard: list[str]
    answered: list[str]
    """The last two are NOTHING and OTHER."""
    counts: list[list[int]]
    """[heard][answered]"""


@dataclass(frozen=True, slots=True)
class Panel:
    """A group of things that may be taken for one another."""

    title: str
    heard: tuple[str, ...]
    replies: Mapping[str, str]
    """What a reply's text answers to; of orders, only how it begins."""

    def count(self, answers: Iterable[tuple[str, list[str]]]) -> Confusions:
        """Counts for pairs of what was heard and the texts of all replies to it."""
        answered = [*dict.fromkeys(self.replies.values()), NOTHING, OTHER]
        counts = np.zeros((len(self.heard), len(answered)), int)
        for heard, texts in answers:
            counts[self.heard.index(heard), answered.index(self._answer(texts))] += 1
        return Confusions(self.title, list(self.heard), answered, counts.tolist())

    def _answer(self, texts: list[str]) -> str:
        match texts:
            case []:
                return NOTHING
            case [text]:
                beginning = ORDER_BEGINNING if text.startswith(ORDER_BEGINNING) else text
                return self.replies.get(beginning, OTHER)
        return OTHER


def words_and_sounds() -> Panel:
    """Digits, wake words, orders (whichever), and sounds."""
    replies = {digit_reply(digit).text: word for digit, word in enumerate(DIGIT_WORDS)}
    replies |= {wake_word_reply(word).text: word for word in WAKE_WORDS}
    replies[ORDER_BEGINNING] = ORDER_LABEL
    replies |= {reply.text: sound for sound, reply in SOUND_REPLIES.items() if reply}
    heard = (*DIGIT_WORDS, *WAKE_WORDS, ORDER_LABEL, HALF_ORDER_LABEL, *SOUND_REPLIES)
    return Panel("Digits, wake words, orders and sounds", heard, replies)


def everyday_phrases() -> Panel:
    """The intents of everyday phrases."""
    replies = {intent.reply.text: intent.name for intent in intents()}
    return Panel("Everyday phrases", tuple(intent.name for intent in intents()), replies)


def _draw(axes: Axes, confusions: Confusions) -> None:
    heard, answered, counts = confusions.heard, confusions.answered, np.array(confusions.counts)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(1, totals)[:, None]
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=9
        )
    for row, label in enumerate(heard):
        right = answered.index(label if label in answered else NOTHING)
        corner = (right - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", zorder=3))
    axes.set_title(f"{confusions.title}: rows heard (times), columns answered", pad=12)
    axes.set_yticks(
        range(len(heard)), [f"{name} ({n})" for name, n in zip(heard, totals, strict=True)]
    )
    axes.set_xticks(range(len(answered)), answered, rotation=90)
    axes.set_yticks(np.arange(1, len(heard)) - 0.5, minor=True)
    axes.set_xticks(np.arange(1, len(answered)) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.axvline(len(answered) - 2.5, color="0.5", linewidth=1)
    axes.tick_params(which="both", length=0, labeltop=True, labelsize=9)


def draw_confusions(confusions: list[Confusions], path: Path) -> None:
    """One picture, 1600 pixels wide: a panel for each, rows what was heard, columns answers.

    Cells hold counts; their colour is the share of the row, and a frame is around what is right.
    """
    heights = [len(panel.heard) + MARGIN_ROWS for panel in confusions]
    figure = Figure((WIDTH_INCHES, sum(heights) * INCHES_PER_ROW), layout="constrained")
    panels = figure.subplots(len(confusions), 1, height_ratios=heights, squeeze=False)
    for axes, panel in zip(panels.ravel(), confusions, strict=True):
        _draw(axes, panel)
    figure.savefig(path, dpi=DOTS_PER_INCH)
