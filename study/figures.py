"""A probe and a judgement as figures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.config import CHUNK_SECONDS
from backend.plotting import COLOURS, DASHES, Columns, drawing
from study.conditions import Axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from study.judge import Judgement
    from study.probe import Probed, Row

AROUND_SECONDS = (-2.0, 1.6)
"""Before and after the end of speech."""
CURVE_STEP_SECONDS = 0.1
PANELS_A_ROW = 4
LABELS = {
    Axis.NOISE: "speech above noise (dB)",
    Axis.GAIN: "gain (dB)",
    Axis.HISS: "hiss (dBFS)",
    Axis.RATE: "through (kHz)",
    Axis.CLIPPING: "clipped (dB)",
    Axis.OFFSET: "begins later (ms)",
}
ZERO_ON_AXIS = (Axis.GAIN, Axis.CLIPPING, Axis.OFFSET)
"""Where nothing is done at 0."""

LATENCIES = {
    "first_text_ms": "first text",
    "first_sound_ms": "first sound",
    "silence_ms": "silence after\nbarge-in",
}
"""Of a judgement."""
SHARES = {
    ("answered", "answers"): "answered",
    ("pauses_respected", "pauses"): "pauses respected",
    ("backchannels_passed", "backchannels"): "goes on over backchannel",
    ("interruptions_stopped", "interruptions"): "stopped by an utterance",
    ("truncations_right", "truncations"): "keeps what was heard",
}
"""Of a judgement: so many of so many."""


def draw_probe(probed: Sequence["Probed"], path: Path) -> None:
    """The chance to speak around the end of speech, and the share answered.

    The suffix of `path` says in which format.
    """
    numbered = [axis for axis in LABELS if any(row.axis == axis for row in probed[0].rows)]
    named = any(row.axis == Axis.BAND for row in probed[0].rows)
    num_panels = 1 + len(numbered) + named
    num_rows = math.ceil(num_panels / PANELS_A_ROW)
    with drawing(path, Columns.TWO, 1.7 * num_rows + 0.3) as figure:
        panels = figure.subplots(num_rows, min(num_panels, PANELS_A_ROW), squeeze=False).ravel()
        for panel in panels[num_panels:]:
            panel.set_visible(False)
        for number, one in enumerate(probed):
            look: dict[str, Any] = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": DASHES[number % len(DASHES)],
                "label": Path(one.checkpoint).name,
            }
            _draw_curve(panels[0], one, look)
            for panel, axis in zip(panels[1:], numbered, strict=False):
                _draw_axis(panel, one, axis, look)
            if named:
                _draw_named(panels[num_panels - 1], one, number, len(probed), look["color"])
        panels[0].axhline(probed[0].threshold, color="0.6", linewidth=0.5)
        panels[0].axvline(0, color="0.6", linewidth=0.5)
        panels[0].set(xlabel="after the end of speech (s)", ylabel="chance to speak", ylim=(0, 1))
        panels[0].legend(loc="upper left")
        for panel, axis in zip(panels[1:], numbered, strict=False):
            panel.set(xlabel=LABELS[axis], ylim=(-0.03, 1.03))
        if len(panels) > 1:
            panels[1].set_ylabel("share answered")


def _draw_curve(panel: "Axes", one: "Probed", look: dict[str, Any]) -> None:
    """Median and quartiles over the clips that nothing was done to."""
    clips = [h for h in one.heard if h.axis == Axis.UNCHANGED and h.wants_reply]
    if not clips:
        return
    times = np.arange(*AROUND_SECONDS, CURVE_STEP_SECONDS)
    curves = []
    for heard in clips:
        # What is decided at a chunk's end holds until the next one's.
        chunks = np.floor((times + heard.end_seconds) / CHUNK_SECONDS + 1e-9).astype(int) - 1
        values = np.asarray(heard.probabilities)
        is_known = (chunks >= 0) & (chunks < len(values))
        curves.append(np.where(is_known, values[chunks.clip(0, len(values) - 1)], np.nan))
    known = np.array(curves)[:, ~np.isnan(curves).all(axis=0)]
    shown = times[~np.isnan(curves).all(axis=0)]
    low, middle, high = np.nanpercentile(known, [25, 50, 75], axis=0)
    panel.step(shown, middle, where="post", **look)
    panel.fill_between(shown, low, high, step="post", color=look["color"], alpha=0.15, linewidth=0)


def _draw_axis(panel: "Axes", one: "Probed", axis: Axis, look: dict[str, Any]) -> None:
    points = [
        (row.number, row.answered_share)
        for row in one.rows
        if row.axis == axis and row.number is not None
    ]
    if axis in ZERO_ON_AXIS:
        base = next(row for row in one.rows if row.axis == Axis.UNCHANGED)
        points.append((0.0, base.answered_share))
    numbers, shares = zip(*sorted(points), strict=True)
    panel.plot(numbers, shares, marker="o", **look)


def _draw_named(panel: "Axes", one: "Probed", number: int, count: int, colour: str) -> None:
    rows = [r for r in one.rows if r.axis in (Axis.UNCHANGED, Axis.GATED, Axis.BAND, Axis.ECHO)]
    places = np.arange(len(rows)) + (number - (count - 1) / 2) * 0.8 / count
    panel.barh(places, [row.answered_share for row in rows], height=0.8 / count, color=colour)
    panel.set_yticks(range(len(rows)), [_label(row) for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set(xlabel="share answered", xlim=(0, 1))


def _label(row: "Row") -> str:
    return row.value if row.axis == Axis.BAND else f"{row.axis} {row.value}".rstrip()


def draw_judgement(found: "Judgement", path: Path) -> None:
    """Latencies, and shares of what was right; the suffix of `path` says in which format."""
    with drawing(path, Columns.TWO, 2.2) as figure:
        left, right = figure.subplots(1, 2)
        for place, name in enumerate(LATENCIES):
            values: Sequence[float] = getattr(found, name)
            if values:
                places = np.full(len(values), place)
                left.plot(values, places, "o", color=COLOURS[0], alpha=0.4, markeredgewidth=0)
                left.plot(np.median(values), place, "|", color=COLOURS[0], markersize=10)
        left.set_yticks(range(len(LATENCIES)), list(LATENCIES.values()))
        left.set(xlabel="from the end of speech, or the onset of a voice (ms)", xlim=(0, None))
        shares = [
            getattr(found, part) / getattr(found, whole) if getattr(found, whole) else np.nan
            for part, whole in SHARES
        ]
        right.barh(range(len(SHARES)), shares, color=COLOURS[0])
        right.set_yticks(range(len(SHARES)), list(SHARES.values()))
        right.set(xlabel="share", xlim=(0, 1))
        for panel, count in ((left, len(LATENCIES)), (right, len(SHARES))):
            panel.set_ylim(count - 0.5, -0.5)
