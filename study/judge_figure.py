"""A judgement as a figure: latencies, and shares of what was right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.plotting import COLOURS, Columns, drawing

if TYPE_CHECKING:
    from study.judge import Judgement

LATENCIES = {
    "first_text_ms": "first text",
    "first_sound_ms": "first sound",
    "silence_ms": "silence after\nbarge-in",
}
SHARES = {
    ("answered", "answers"): "answered",
    ("pauses_respected", "pauses"): "pauses respected",
    ("backchannels_passed", "backchannels"): "goes on over backchannel",
    ("interruptions_stopped", "interruptions"): "stopped by an utterance",
    ("truncations_right", "truncations"): "keeps what was heard",
}


def draw_judgement(judged: Mapping[str, "Judgement"], path: Path) -> None:
    """Write the figure of one server or several; its suffix says in which format."""
    with drawing(path, Columns.TWO, 2.2) as figure:
        left, right = figure.subplots(1, 2)
        height = 0.8 / len(judged)
        for number, (server, found) in enumerate(judged.items()):
            colour = COLOURS[number % len(COLOURS)]
            shift = (number - (len(judged) - 1) / 2) * height
            for place, name in enumerate(LATENCIES):
                values: Sequence[float] = getattr(found, name)
                places = np.full(len(values), place + shift)
                left.plot(values, places, "o", color=colour, alpha=0.4, markeredgewidth=0)
                if values:
                    left.plot(np.median(values), place + shift, "|", color=colour, markersize=10)
            shares = [
                getattr(found, part) / getattr(found, whole) if getattr(found, whole) else np.nan
                for part, whole in SHARES
            ]
            places = np.arange(len(SHARES)) + shift
            right.barh(places, shares, height=height, color=colour, label=server)
        left.set_yticks(range(len(LATENCIES)), list(LATENCIES.values()))
        left.set(xlabel="from the end of speech, or the onset of a voice (ms)", xlim=(0, None))
        left.set_ylim(len(LATENCIES) - 0.5, -0.5)
        right.set_yticks(range(len(SHARES)), list(SHARES.values()))
        right.set(xlabel="share", xlim=(0, 1))
        right.set_ylim(len(SHARES) - 0.5, -0.5)
        if len(judged) > 1:
            figure.legend(loc="outside upper right", ncols=len(judged))
