"""Two checkpoints, or two settings, on the same sound: `python app.py compare`."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from backend.audio import Samples
from backend.cli import EXIT_UNUSABLE_FILE
from backend.cli.arguments import session_settings
from backend.cli.listen import chosen_checkpoint, chunks_of
from backend.cli.recordings import print_beside, said_fields
from backend.config import (
    CHUNK_SECONDS,
    EngineConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore
from backend.engine.cost import run_steps
from backend.errors import AudioInputError, AudioInteractionError, SettingsError
from backend.events import Decision, SessionFailed, TurnDone
from backend.model.checkpoint import Checkpoint
from backend.plotting import require_figure
from backend.recordings.export.figure import Peaks, Strip, draw_strips, peaks_of
from backend.recordings.reader import SessionFile
from backend.recordings.transcript import RecordedReply, chunk_end, read_transcript

SESSION_SUFFIX = ".aisession"
SAME_REPLY_CHUNKS = 2
"""Replies that begin so near to each other answer the same."""
CONFIDENCE_95 = 1.959964
BARS = "▁▂▃▄▅▆▇█"
CHUNKS_A_LINE = 75
"""Half a minute."""
MODEL_OPTIONS = ("checkpoint", "device", "dtype", "bits")
OPTIONS_OF_A_SIDE = (
    *MODEL_OPTIONS,
    "decision_bias",
    "temperature",
    "top_k",
    "seed",
    "system_prompt",
)


@dataclass(frozen=True, slots=True)
class Side(Strip):
    """What one of two made of some sound."""

    spoke: Sequence[bool] = ()
    """Chunk by chunk."""

    def fields(self) -> dict[str, object]:
        """For JSON."""
        return {
            "name": self.name,
            "probabilities": self.probabilities,
            "thresholds": self.thresholds,
            "spoke": self.spoke,
            "replies": [said_fields(reply) for reply in self.replies],
        }


@dataclass(frozen=True, slots=True)
class Agreed:
    """So many of so many, with the interval of 95 % after Wilson (JASA 22, 1927)."""

    same: int
    of: int

    @property
    def share(self) -> float:
        """1 where there is nothing to differ in."""
        return self.same / self.of if self.of else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lowest and highest share that the count is likely for."""
        if not self.of:
            return 0.0, 1.0
        squared = CONFIDENCE_95**2
        middle = (self.same + squared / 2) / (self.of + squared)
        inside = self.share * (1 - self.share) / self.of + squared / (4 * self.of**2)
        half = CONFIDENCE_95 * math.sqrt(inside) / (1 + squared / self.of)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __add__(self, other: "Agreed") -> "Agreed":
        return Agreed(self.same + other.same, self.of + other.of)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.same} of {self.of} ({100 * self.share:.1f} %, "
            f"95 %: {100 * low:.1f} to {100 * high:.1f} %)"
        )

    def fields(self) -> dict[str, object]:
        """For JSON."""
        return {"same": self.same, "of": self.of, "share": self.share, "interval": self.interval}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides of one recording."""

    file: str
    left: Side
    right: Side
    peaks: Peaks

    @property
    def differ_at(self) -> list[int]:
        """Chunks at which one speaks and the other does not."""
        pairs = zip_longest(self.left.spoke, self.right.spoke, fillvalue=False)
        return [chunk for chunk, (one, other) in enumerate(pairs) if one != other]

    @property
    def decisions(self) -> Agreed:
        """Of chunks."""
        count = max(len(self.left.spoke), len(self.right.spoke))
        return Agreed(count - len(self.differ_at), count)

    @property
    def replies(self) -> Agreed:
        """Of places where either replies: both do, in the same words and emotion."""
        pairs = paired(self.left.replies, self.right.replies)
        return Agreed(
            sum(
                one is not None
                and other is not None
                and (one.text, one.emotion) == (other.text, other.emotion)
                for one, other in pairs
            ),
            len(pairs),
        )

    @property
    def largest_gap(self) -> tuple[float, int]:
        """Of the two probabilities to speak, and its chunk."""
        pairs = zip(self.left.probabilities, self.right.probabilities, strict=False)
        gaps = [abs(one - other) for one, other in pairs]
        return max(((gap, chunk) for chunk, gap in enumerate(gaps)), default=(0.0, 0))


def paired(
    left: Sequence[RecordedReply], right: Sequence[RecordedReply]
) -> list[tuple[RecordedReply | None, RecordedReply | None]]:
    """Replies to the same, in order; None where one side is silent."""
    pairs: list[tuple[RecordedReply | None, RecordedReply | None]] = []
    ours, theirs = list(left), list(right)
    while ours and theirs:
        if _is_alone(ours, theirs[0]):
            pairs.append((ours.pop(0), None))
        elif _is_alone(theirs, ours[0]):
            pairs.append((None, theirs.pop(0)))
        else:
            pairs.append((ours.pop(0), theirs.pop(0)))
    return pairs + [(said, None) for said in ours] + [(None, said) for said in theirs]


def _is_alone(replies: Sequence[RecordedReply], other: RecordedReply) -> bool:
    """Whether the first reply comes well before `other`, or the one after it is nearer."""
    gaps = [other.chunk - said.chunk for said in replies[:2]]
    return gaps[0] > SAME_REPLY_CHUNKS or (len(gaps) > 1 and abs(gaps[1]) < gaps[0])


def compare(parsed: argparse.Namespace) -> int:
    """Compare two sides on files; returns the exit code."""
    figure = None if parsed.figure is None else require_figure(parsed.figure)
    comparisons: list[Comparison] = []
    problems: list[str] = []
    for comparison in _recorded(parsed) if parsed.recorded else _heard(parsed, problems):
        comparisons.append(comparison)
        _report(comparison, sys.stdout, as_json=parsed.json)
        if figure is not None:
            sides = [comparison.left, comparison.right]
            path = _numbered(figure, len(comparisons))
            draw_strips(comparison.peaks, sides, path, differ_at=comparison.differ_at)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not comparisons:
        return EXIT_UNUSABLE_FILE
    _report_all(comparisons, sys.stdout, as_json=parsed.json)
    return EXIT_UNUSABLE_FILE if problems else 0


def _numbered(figure: Path, number: int) -> Path:
    """Of several files' figures, the second is `figure-2.svg`."""
    return figure if number == 1 else figure.with_stem(f"{figure.stem}-{number}")


def _recorded(parsed: argparse.Namespace) -> Iterator[Comparison]:
    """Two session files as they are.

    Raises:
        SettingsError: there are not two.
    """
    if len(parsed.files) != 2:
        raise SettingsError("--recorded compares two session files")
    sides, peaks = list[Side](), np.empty(0, np.float32)
    for name in parsed.files:
        with SessionFile(name) as file:
            sides.append(_side_of(file, Path(name).stem))
            own = [peaks_of(chunk) for chunk in file.chunks()]
        # Of files of different lengths, the longer one's.
        if sum(map(len, own)) > len(peaks):
            peaks = np.concatenate(own)
    left, right = sides
    yield Comparison(" and ".join(map(str, parsed.files)), left, right, peaks)


def _side_of(file: SessionFile, name: str) -> Side:
    transcript = read_transcript(file)
    decisions = transcript.decisions
    return Side(
        name,
        [decision.probability for decision in decisions],
        [decision.threshold for decision in decisions],
        transcript.replies,
        spoke=[decision.speak for decision in decisions],
    )


def _heard(parsed: argparse.Namespace, problems: list[str]) -> Iterator[Comparison]:
    """Every file, heard by both sides.

    Raises:
        SettingsError: the sides are alike.
    """
    other = _other_side(parsed)
    names = _names(parsed, other)
    # Weights that both have are loaded once.
    is_same_model = all(getattr(parsed, name) == getattr(other, name) for name in MODEL_OPTIONS)
    ours = chosen_checkpoint(parsed)
    theirs = ours if is_same_model else chosen_checkpoint(other)
    left, right = SideListener(ours, parsed, names[0]), SideListener(theirs, other, names[1])
    for file in parsed.files:
        try:
            chunks = list(sound_of(file))
            sides = left.hear(chunks), right.hear(chunks)
        except AudioInteractionError as error:
            # What was compared until then stands, and the others are still to come.
            problems.append(str(error))
            continue
        peaks = np.concatenate([peaks_of(chunk) for chunk in chunks])
        yield Comparison(str(file), sides[0], sides[1], peaks)


def _other_side(parsed: argparse.Namespace) -> argparse.Namespace:
    """The options of the second side: those of the first but where it has its own."""
    options = vars(parsed)
    own = {
        name: options[f"other_{name}"]
        for name in OPTIONS_OF_A_SIDE
        if options[f"other_{name}"] is not None
    }
    if all(options[name] == value for name, value in own.items()):
        raise SettingsError(
            "both sides are the same: say what is to differ, with --other-checkpoint, "
            "--other-decision-bias and the like, or compare two session files with --recorded"
        )
    return argparse.Namespace(**{**options, **own})


def _names(parsed: argparse.Namespace, other: argparse.Namespace) -> tuple[str, str]:
    """By what tells the sides apart."""
    differing = [n for n in OPTIONS_OF_A_SIDE if getattr(parsed, n) != getattr(other, n)]
    first, second = (
        ", ".join(
            _short(getattr(side, name))
            if name == "checkpoint"
            else f"{name.replace('_', '-')} {_value(side, name)}"
            for name in differing
        )
        for side in (parsed, other)
    )
    return (first, second) if first != second else ("first", "second")


def _value(side: argparse.Namespace, name: str) -> str:
    value = getattr(side, name)
    text = "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def _short(checkpoint: str) -> str:
    return Path(checkpoint).name or checkpoint


def sound_of(file: Path) -> Iterator[Samples]:
    """The sound of a recording, or of a session's microphone, in chunks `[6400]`.

    Raises:
        AudioInputError: it cannot be read, or holds no audio.
        SessionFileError: it is no session file, although it is called one.
    """
    if file.suffix != SESSION_SUFFIX and not file.is_dir():
        yield from chunks_of(file)
        return
    with SessionFile(file) as session, closing(session.chunks()) as chunks:
        if not session.num_chunks:
            raise AudioInputError(f"{file} holds no sound")
        yield from chunks


class SideListener:
    """One side: hears each recording in a conversation of its own."""

    def __init__(self, checkpoint: Checkpoint, side: argparse.Namespace, name: str) -> None:
        self._name = name
        self._settings: SessionSettings = replace(
            session_settings(side, checkpoint.sampling), decision_bias=side.decision_bias
        )
        self._core = EngineCore(checkpoint, EngineConfig(num_slots=1))
        self._core.limit_threads()

    def hear(self, chunks: Sequence[Samples]) -> Side:
        """What it makes of them.

        Raises:
            AudioInputError: the model fails on it.
        """
        session = self._core.open(self._settings)
        decisions: list[Decision] = []
        replies: list[RecordedReply] = []
        try:
            for chunk in tqdm(chunks, unit="chunk", desc=self._name, leave=False, disable=None):
                self._core.hear(session, chunk)
                for event in run_steps(self._core):
                    match event:
                        case Decision():
                            decisions.append(event)
                        case TurnDone():
                            replies.append(RecordedReply.of(event))
                        case SessionFailed():
                            raise AudioInputError(f"{self._name}: {event.message}")
        finally:
            self._core.close(session)
        return Side(
            self._name,
            [decision.speak_probability for decision in decisions],
            [decision.threshold for decision in decisions],
            replies,
            spoke=[decision.speak for decision in decisions],
        )


# What is shown


def _report(comparison: Comparison, output: TextIO, *, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps(comparison_fields(comparison), ensure_ascii=False), file=output, flush=True
        )
        return
    left, right = comparison.left, comparison.right
    print(comparison.file, file=output)
    width = min(16, max(len(left.name), len(right.name)))
    differing = set(comparison.differ_at)
    count = max(len(left.probabilities), len(right.probabilities))
    for start in range(0, count, CHUNKS_A_LINE):
        chunks = range(start, min(start + CHUNKS_A_LINE, count))
        time = f"{start * CHUNK_SECONDS:7.1f} s"
        for side in (left, right):
            bars = "".join(_bar(side.probabilities, chunk) for chunk in chunks)
            print(f"{time}  {side.name[:width]:<{width}}  {bars}", file=output)
            time = " " * len(time)
        marks = "".join("^" if chunk in differing else " " for chunk in chunks).rstrip()
        if marks:
            print(f"{time}  {'':<{width}}  {marks}", file=output)
    print_beside((left.name, right.name), left.replies, right.replies, output)
    gap, chunk = comparison.largest_gap
    print(
        f"{'':9}  decisions alike: {comparison.decisions}\n"
        f"{'':9}  replies alike: {comparison.replies}\n"
        f"{'':9}  the chances to speak differ most at {chunk_end(chunk):g} s, by {gap:.2f}",
        file=output,
        flush=True,
    )


def _bar(probabilities: Sequence[float], chunk: int) -> str:
    if chunk >= len(probabilities):
        return " "
    return BARS[min(len(BARS) - 1, int(probabilities[chunk] * len(BARS)))]


def _report_all(comparisons: Sequence[Comparison], output: TextIO, *, as_json: bool) -> None:
    decisions = sum((one.decisions for one in comparisons), Agreed(0, 0))
    replies = sum((one.replies for one in comparisons), Agreed(0, 0))
    if as_json:
        fields = {
            "event": "agreement",
            "files": len(comparisons),
            "decisions": decisions.fields(),
            "replies": replies.fields(),
        }
        print(json.dumps(fields), file=output, flush=True)
    elif len(comparisons) > 1:
        print(f"{len(comparisons)} files", file=output)
        print(f"{'':9}  decisions alike: {decisions}", file=output)
        print(f"{'':9}  replies alike: {replies}", file=output, flush=True)


def comparison_fields(comparison: Comparison) -> dict[str, object]:
    """For JSON."""
    gap, chunk = comparison.largest_gap
    return {
        "event": "comparison",
        "file": comparison.file,
        "left": comparison.left.fields(),
        "right": comparison.right.fields(),
        "differ_at": comparison.differ_at,
        "decisions": comparison.decisions.fields(),
        "replies": comparison.replies.fields(),
        "largest_gap": {"probability": gap, "chunk": chunk},
    }
