"""A conversation as a figure: waveform, the curve of decisions, and replies in their emotions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.config import CHUNK_SECONDS
from backend.plotting import COLOURS, EMOTION_COLOURS, Columns, drawing
from backend.recordings.reader import SessionFile
from backend.recordings.session_file import HeardWord, heard_words
from backend.recordings.transcript import RecordedReply, chunk_end, read_transcript

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

ROW_SECONDS = 20.0
"""Of sound, side by side in a figure's width."""
MOST_ROWS = 6
"""On a page: longer conversations are drawn closer together."""
ROW_INCHES = 1.75
STRIP_INCHES = 0.95
"""Of each strip of decisions and replies beyond the first."""
PEAKS_PER_CHUNK = 16
CHARACTERS_PER_INCH = 22
"""Of type as small as replies have."""
REPLY_POINTS = 5.5
LABEL_SECONDS = 2.0
"""A reply that begins so near to a row's end has its words in the next one."""

Peaks = npt.NDArray[np.float32]
"""The loudest in each of so many parts of a chunk, `[n]`."""


@dataclass(frozen=True, slots=True)
class Strip:
    """What was decided and said about a recording."""

    name: str
    """Empty where there is only one."""
    probabilities: Sequence[float]
    """To speak, chunk by chunk."""
    thresholds: Sequence[float]
    """Above which a greedy model speaks."""
    replies: Sequence[RecordedReply]
    words: Sequence[HeardWord] = ()
    """That were heard; the first strip's are drawn below the sound."""


def peaks_of(chunk: npt.NDArray[np.float32]) -> Peaks:
    """What is drawn of a chunk's sound."""
    peaks: Peaks = np.abs(chunk.reshape(PEAKS_PER_CHUNK, -1)).max(axis=1)
    return peaks


def write_figure(file: SessionFile, output: Path, kind: str) -> None:
    """A recording as `svg`, `pdf` or `png`.

    Raises:
        SessionFileError: it was changed since it was opened.
        SettingsError: matplotlib is missing.
    """
    transcript = read_transcript(file)
    peaks = np.concatenate([np.empty(0, np.float32), *map(peaks_of, file.chunks())])
    strip = Strip(
        "",
        [decision.probability for decision in transcript.decisions],
        [decision.threshold for decision in transcript.decisions],
        transcript.replies,
        heard_words(transcript.decisions),
    )
    draw_strips(peaks, [strip], output, kind)


def draw_strips(
    peaks: Peaks,
    strips: Sequence[Strip],
    output: Path,
    kind: str | None = None,
    differ_at: Sequence[int] = (),
) -> None:
    """A recording's sound, and strips one below the other, in as many rows as it takes.

    Args:
        peaks: of the sound, see `peaks_of`.
        strips: one at least.
        output: where to.
        kind: `svg`, `pdf` or `png`; None as `output` ends.
        differ_at: chunks to mark, at which strips differ.
    """
    seconds = max(len(peaks) / PEAKS_PER_CHUNK, 1) * CHUNK_SECONDS
    num_rows = min(MOST_ROWS, math.ceil(seconds / ROW_SECONDS))
    # A short one fills the width, and a long one its rows.
    row_seconds = chunk_end(math.ceil(seconds / num_rows / CHUNK_SECONDS) - 1)
    inches = num_rows * (ROW_INCHES + STRIP_INCHES * (len(strips) - 1)) + 0.35
    with drawing(output, Columns.TWO, inches, kind) as figure:
        rows = figure.subfigures(num_rows, 1, squeeze=False)[:, 0]
        for number, row in enumerate(rows):
            span = (number * row_seconds, (number + 1) * row_seconds)
            _draw_row(row, span, peaks, strips, differ_at)
        rows[-1].axes[-1].set_xlabel("time (s)")
        _legend(figure, strips)


def _draw_row(
    row: "SubFigure",
    span: tuple[float, float],
    peaks: Peaks,
    strips: Sequence[Strip],
    differ_at: Sequence[int],
) -> None:
    heights = [0.8, *[1.0, 0.5] * len(strips)]
    panels = row.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    times = np.arange(len(peaks)) * CHUNK_SECONDS / PEAKS_PER_CHUNK
    shown = (times >= span[0] - CHUNK_SECONDS) & (times <= span[1] + CHUNK_SECONDS)
    scale = max(float(peaks.max(initial=0)), 1e-3)
    panels[0].fill_between(
        times[shown], -peaks[shown] / scale, peaks[shown] / scale, color="0.45", linewidth=0
    )
    words = [word for word in strips[0].words if span[0] <= word.start_seconds < span[1]]
    for word, following in zip_longest(words, words[1:]):
        until = span[1] if following is None else following.start_seconds
        room = int((until - word.start_seconds) * _inches_a_second(span) * CHARACTERS_PER_INCH)
        text = _shortened(word.text, max(1, room))
        panels[0].text(
            word.start_seconds, -1.1, text, fontsize=REPLY_POINTS, va="top", parse_math=False
        )
    panels[0].set(ylim=(-1.6 if strips[0].words else -1, 1), yticks=[], ylabel="sound")
    panels[0].spines["left"].set_visible(False)
    for number, strip in enumerate(strips):
        curve, replies = panels[1 + 2 * number], panels[2 + 2 * number]
        _draw_curve(curve, strip, COLOURS[number % len(COLOURS)])
        _draw_replies(replies, strip, span)
        for chunk in differ_at:
            curve.axvspan(
                chunk * CHUNK_SECONDS, chunk_end(chunk), color="0.85", linewidth=0, zorder=0
            )
    for panel in panels:
        panel.set_xlim(span)
        panel.tick_params(bottom=panel is panels[-1])
    for panel in panels[:-1]:
        panel.spines["bottom"].set_visible(False)


def _draw_curve(panel: "Axes", strip: Strip, colour: str) -> None:
    # A decision is made at the end of its chunk.
    edges = np.arange(len(strip.probabilities) + 1) * CHUNK_SECONDS
    if len(strip.probabilities):
        panel.stairs(strip.thresholds, edges, color="0.6", linewidth=0.5, linestyle=":")
        panel.stairs(strip.probabilities, edges, color=colour, fill=True, alpha=0.25)
        panel.stairs(strip.probabilities, edges, color=colour)
    panel.set(ylim=(0, 1.05), yticks=[0, 1], ylabel=strip.name or "speak")


def _draw_replies(panel: "Axes", strip: Strip, span: tuple[float, float]) -> None:
    for number, reply in enumerate(strip.replies):
        began, is_cut = reply.starts_at_seconds, reply.cut_after_ms is not None
        panel.barh(
            0.25,
            max(reply.ends_at_seconds - began, 0.05),
            left=began,
            height=0.5,
            color=EMOTION_COLOURS[reply.emotion],
            hatch="////" if is_cut else None,
            edgecolor="white" if is_cut else EMOTION_COLOURS[reply.emotion],
            linewidth=0.3,
        )
        start = _label_seconds(reply, span)
        if start is None:
            continue
        following = strip.replies[number + 1 :][:1]
        until = min([span[1], *[after.starts_at_seconds for after in following]])
        room = (until - start) * _inches_a_second(span)
        latency_ms = _latency_ms(reply)
        latency = "" if latency_ms is None else f"({latency_ms:.0f} ms)"
        words = f"{reply.heard_text} {reply.note} {latency}"
        text = _shortened(words, max(3, int(room * CHARACTERS_PER_INCH)))
        # A dollar would begin a formula.
        panel.text(start, 0.55, text, fontsize=REPLY_POINTS, va="bottom", parse_math=False)
    panel.set(ylim=(0, 1.1), yticks=[])
    panel.spines["left"].set_visible(False)


def _inches_a_second(span: tuple[float, float]) -> float:
    return Columns.TWO.value * 0.92 / (span[1] - span[0])


def _latency_ms(reply: RecordedReply) -> float | None:
    """From the end of speech to the first sound or, where there was none, text."""
    latency = reply.latency
    return None if latency is None else latency.first_sound_ms or latency.first_text_ms


def _label_seconds(reply: RecordedReply, span: tuple[float, float]) -> float | None:
    """Where a row has a reply's words: those of one that goes on in the next row are there."""
    start, end = span
    began, ended = reply.starts_at_seconds, reply.ends_at_seconds
    if start <= began < end:
        return None if ended > end and end - began < LABEL_SECONDS else began
    came_over = began < start < ended
    return start if came_over and start - began < LABEL_SECONDS else None


def _shortened(text: str, num_characters: int) -> str:
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= num_characters else f"{plain[: num_characters - 1]}…"


def _legend(figure: "Figure", strips: Sequence[Strip]) -> None:
    """The emotions that there are, and what replies took in the median."""
    from matplotlib.patches import Patch

    replies = [reply for strip in strips for reply in strip.replies]
    named = {reply.emotion for reply in replies}
    patches = [
        Patch(color=colour, label=emotion.value if emotion else "no emotion")
        for emotion, colour in EMOTION_COLOURS.items()
        if emotion in named
    ]
    latencies = [ms for reply in replies if (ms := _latency_ms(reply)) is not None]
    if latencies:
        label = f"replies after {median(latencies):.0f} ms in the median"
        patches.append(Patch(color="none", label=label))
    if patches:
        figure.legend(handles=patches, loc="outside upper right", ncols=len(patches))
