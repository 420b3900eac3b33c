"""When does a model speak, and what keeps it from that: `python app.py probe`.

A clip is heard under every condition without being answered, so that the probability to speak is
known at every chunk around the end of speech, and none is disturbed by a reply to one before it.
"""

import argparse
import csv
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

from tqdm import tqdm

from backend.audio import Samples
from backend.cli import EXIT_UNUSABLE_FILE
from backend.config import (
    CHUNK_SECONDS,
    GREEDY,
    ONLY_WHEN_ASKED,
    EngineConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore
from backend.engine.session import Session
from backend.errors import AudioInputError, CheckpointError, ManifestError, SettingsError
from backend.events import Decision, SessionFailed
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.fingerprint import fingerprint
from backend.model.layout import LANGUAGE_MODEL_CONFIG
from backend.plotting import require_figure
from backend.protocol import speak_threshold
from study.clips import StudyClip, audible_span, find_clips, whole_lines
from study.conditions import Axis, Condition, Exposure, conditions, expose, nothing
from study.figures import draw_probe

NO_CLIP = "nothing"
"""In place of a clip's name, where none is heard."""
SPEAKS_SHARE = 0.5
"""A checkpoint speaks, and stands a condition, where it answers at least so many."""
FALSE_SHARE = 0.25
"""Of what is not to be answered: more, and the verdict says so."""
HEARD = "heard.jsonl"
TABLE = "table.csv"
REPORT = "report.json"


@dataclass(frozen=True, slots=True)
class HeardClip:
    """What a checkpoint made of a clip under a condition."""

    made_with: str
    """Checkpoint, number format, prompt and bias: what may not be mixed."""
    clip: str
    sound: str
    """The clip's checksum: another one of the same name is another."""
    axis: str
    value: str
    wants_reply: bool
    onset_seconds: float
    end_seconds: float
    probabilities: tuple[float, ...]
    """To speak, at the end of each chunk."""

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from the others."""
        return self.made_with, self.clip, self.sound, self.axis, self.value

    def speaks_at(self, threshold: float) -> float | None:
        """Seconds at which it would first speak once there is something to answer; None: never."""
        for number, probability in enumerate(self.probabilities, start=1):
            seconds = number * CHUNK_SECONDS
            if seconds > self.onset_seconds and probability > threshold:
                return seconds
        return None


@dataclass(frozen=True, slots=True)
class Row:
    """A checkpoint under one condition, over all clips."""

    checkpoint: str
    axis: str
    value: str
    number: float | None
    clips: int
    """That are to be answered, or not, as the axis says."""
    answered: int
    answered_share: float
    median_peak: float
    """Of the highest probability of each clip."""
    median_delay_seconds: float | None
    """From the end of speech to the end of the chunk at which it would speak; None where never."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A checkpoint, what it made of everything, and what that means."""

    checkpoint: str
    made_with: str
    threshold: float
    heard: tuple[HeardClip, ...]
    rows: tuple[Row, ...]
    verdict: tuple[str, ...]


def probe(parsed: argparse.Namespace) -> int:
    """Probe checkpoints with clips; returns the exit code."""
    problems: list[str] = []
    clips = _readable(find_clips(parsed.clips, problems), problems)
    figure = require_figure(parsed.out / f"probe.{parsed.figure}") if parsed.figure else None
    sources = [s for source in parsed.checkpoint or ["embedded"] for s in checkpoints_of(source)]
    wanted = [c for c in conditions() if not parsed.first or c.axis is Axis.UNCHANGED]
    store = HeardStore(parsed.out)
    probed: list[Probed] = []
    for source in sources:
        try:
            checkpoint = load_checkpoint(
                source, device=parsed.device, dtype=parsed.dtype, bits=parsed.bits
            )
        except CheckpointError as error:
            # Those of a run that are there are probed all the same.
            if len(sources) == 1:
                raise
            problems.append(f"{source}: {error}")
            continue
        probing = Probing(checkpoint, parsed.system_prompt, parsed.decision_bias, parsed.sessions)
        heard = probing.run(clips, wanted, store)
        found = judged(source, probing.made_with, probing.threshold, heard, wanted)
        probed.append(found)
        _print(found, as_json=parsed.json)
        if parsed.first and speaks(found):
            break
    for problem in problems:
        print(problem, file=sys.stderr)
    if not probed:
        return EXIT_UNUSABLE_FILE
    if len(probed) > 1 or parsed.first:
        print(first_that_speaks(probed), file=sys.stderr if parsed.json else sys.stdout)
    write_reports(probed, parsed.out)
    if figure is not None:
        draw_probe(probed, figure)
    print(
        f"{parsed.out}: {', '.join(sorted(p.name for p in parsed.out.iterdir()))}", file=sys.stderr
    )
    return EXIT_UNUSABLE_FILE if problems else 0


def _readable(clips: Iterable[StudyClip], problems: list[str]) -> list[tuple[StudyClip, Samples]]:
    """The clips with their sound; a sentence is added for each that has none.

    Raises:
        AudioInputError: none has any.
    """
    readable = []
    for clip in clips:
        try:
            readable.append((clip, clip.read()))
        except AudioInputError as error:
            problems.append(str(error))
    if not readable:
        raise AudioInputError(f"no clip can be used: {'; '.join(problems)}")
    return readable


def checkpoints_of(source: str) -> list[str]:
    """A checkpoint itself, or those of a training run's folder in the order of their numbers.

    Raises:
        CheckpointError: a folder that is no checkpoint and holds none.
    """
    folder = Path(source)
    if not folder.is_dir() or (folder / LANGUAGE_MODEL_CONFIG).exists():
        return [source]
    found = sorted((path.parent for path in folder.glob(f"*/{LANGUAGE_MODEL_CONFIG}")), key=_step)
    if not found:
        raise CheckpointError(
            f"{source} is no checkpoint, and none of its folders is: there is no "
            f"{LANGUAGE_MODEL_CONFIG}"
        )
    return [str(path) for path in found]


def _step(folder: Path) -> tuple[list[int], str]:
    """`step-900` comes before `step-1000`."""
    return [int(number) for number in re.findall(r"\d+", folder.name)], folder.name


class HeardStore:
    """What was heard so far, a line each, so that a probe that broke off goes on.

    Args:
        folder: is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise SettingsError(f"{folder} is a file: --out is a folder") from error
        self._path = folder / HEARD
        self._heard = {heard.key: heard for heard in self._read()}

    def get(self, key: tuple[str, ...]) -> HeardClip | None:
        """What is known already, by `HeardClip.key`."""
        return self._heard.get(key)

    def add(self, heard: HeardClip) -> None:
        """Write it down at once.

        Raises:
            SettingsError: the disk does not take it; what was written before stays.
        """
        self._heard[heard.key] = heard
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(heard), ensure_ascii=False) + "\n")
        except OSError as error:
            raise SettingsError(
                f"{self._path} cannot be written: {error.strerror}; what was heard until now is "
                "kept, and the same command goes on from there"
            ) from error

    def _read(self) -> Iterator[HeardClip]:
        for number, line in enumerate(whole_lines(self._path), start=1):
            try:
                row = json.loads(line)
                yield HeardClip(**{**row, "probabilities": tuple(map(float, row["probabilities"]))})
            except (ValueError, TypeError, KeyError) as error:
                raise ManifestError(f"{self._path}, line {number} is no line of a probe") from error


class Probing:
    """Lets a checkpoint hear clips under conditions, some side by side.

    Args:
        checkpoint: the model.
        system_prompt: None for its own.
        decision_bias: what it would be used with; moves the threshold alone.
        num_sessions: clips at once.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        system_prompt: str | None,
        decision_bias: float,
        num_sessions: int,
    ) -> None:
        self.threshold = speak_threshold(decision_bias)
        prompt = checkpoint.system_prompt if system_prompt is None else system_prompt
        self.made_with = f"{fingerprint(checkpoint)[:16]} {checkpoint.number_format} {prompt!r}"
        self._name, self._num_sessions = checkpoint.name, num_sessions
        self._core = EngineCore(checkpoint, EngineConfig(num_slots=num_sessions))
        self._core.limit_threads()
        self._settings = SessionSettings(
            sampling=GREEDY, system_prompt=system_prompt, decision_bias=ONLY_WHEN_ASKED
        )

    def run(
        self,
        clips: Sequence[tuple[StudyClip, Samples]],
        wanted: Sequence[Condition],
        store: HeardStore,
    ) -> list[HeardClip]:
        """Everything, in the order of the conditions; only what `store` lacks is heard."""
        jobs = [
            _ProbeJob(clip, condition)
            for condition in wanted
            for clip in ([None] if condition.axis is Axis.NOTHING else clips)
        ]
        waiting = [job for job in jobs if store.get(job.key(self.made_with)) is None]
        with tqdm(
            total=len(jobs),
            initial=len(jobs) - len(waiting),
            unit="clip",
            desc=self._name,
            leave=False,
            disable=None,
        ) as progress:
            for heard in self._hear_all(waiting):
                store.add(heard)
                progress.update()
        return [known for job in jobs if (known := store.get(job.key(self.made_with))) is not None]

    def _hear_all(self, waiting: Iterable["_ProbeJob"]) -> Iterator[HeardClip]:
        coming = iter(waiting)
        going_on: dict[Session, tuple[_ProbeJob, Exposure, list[float]]] = {}
        while True:
            while len(going_on) < self._num_sessions:
                if (job := next(coming, None)) is None:
                    break
                exposure = job.exposure()
                session = self._core.open(self._settings)
                for chunk in exposure.chunks:
                    self._core.hear(session, chunk)
                going_on[session] = (job, exposure, [])
            if not going_on:
                return
            for session, event in list(self._core.step()):
                job, exposure, probabilities = going_on[session]
                if isinstance(event, SessionFailed):
                    name = f"{job.name}, {job.condition.name}"
                    raise CheckpointError(f"{self._name}: {name}: {event.message}")
                if not isinstance(event, Decision):
                    continue
                probabilities.append(round(event.speak_probability, 6))
                if len(probabilities) == len(exposure.chunks):
                    self._core.close(session)
                    del going_on[session]
                    yield job.heard(self.made_with, exposure, probabilities)


@dataclass(frozen=True, slots=True)
class _ProbeJob:
    """A clip, or none, under a condition."""

    clip: tuple[StudyClip, Samples] | None
    condition: Condition

    @property
    def name(self) -> str:
        """Of the clip."""
        return NO_CLIP if self.clip is None else self.clip[0].name

    @property
    def sound(self) -> str:
        """The clip's checksum."""
        return "" if self.clip is None else f"{zlib.crc32(self.clip[1].tobytes()):08x}"

    def key(self, made_with: str) -> tuple[str, ...]:
        """Of what comes of it."""
        return made_with, self.name, self.sound, self.condition.axis, self.condition.value

    def exposure(self) -> Exposure:
        """What is to be heard."""
        if self.clip is None:
            return nothing(self.condition)
        samples = self.clip[1]
        return expose(samples, audible_span(samples, self.name), self.name, self.condition)

    def heard(
        self, made_with: str, exposure: Exposure, probabilities: Sequence[float]
    ) -> HeardClip:
        """What was made of it."""
        return HeardClip(
            made_with,
            self.name,
            self.sound,
            self.condition.axis,
            self.condition.value,
            self.clip is not None and self.clip[0].wants_reply,
            round(exposure.onset_seconds, 3),
            round(exposure.end_seconds, 3),
            tuple(probabilities),
        )


# What it means


def judged(
    source: str,
    made_with: str,
    threshold: float,
    heard: Sequence[HeardClip],
    wanted: Sequence[Condition],
) -> Probed:
    """Tables and a verdict of what a checkpoint has made of everything."""
    rows = tuple(
        _row(
            source,
            condition,
            [h for h in heard if (h.axis, h.value) == (condition.axis, condition.value)],
            threshold,
        )
        for condition in wanted
    )
    verdict = tuple(_verdict(rows, heard, threshold))
    return Probed(source, made_with, threshold, tuple(heard), rows, verdict)


def _row(source: str, condition: Condition, heard: Sequence[HeardClip], threshold: float) -> Row:
    # Where nothing is said, all of it is not to be answered.
    counted = [h for h in heard if h.wants_reply or condition.axis is Axis.NOTHING]
    spoken_at = [(h, h.speaks_at(threshold)) for h in counted]
    delays = [seconds - h.end_seconds for h, seconds in spoken_at if seconds is not None]
    return Row(
        source,
        condition.axis,
        condition.value,
        condition.number,
        len(counted),
        len(delays),
        round(len(delays) / max(1, len(counted)), 4),
        round(median(max(h.probabilities) for h in counted), 4) if counted else 0.0,
        round(median(delays), 3) if delays and condition.axis is not Axis.NOTHING else None,
    )


def speaks(probed: Probed) -> bool:
    """Whether it answers clips that nothing was done to."""
    unchanged = _of_axis(probed.rows, Axis.UNCHANGED)[0]
    return bool(unchanged.clips) and unchanged.answered_share >= SPEAKS_SHARE


def first_that_speaks(probed: Sequence[Probed]) -> str:
    """A sentence."""
    found = next((one for one in probed if speaks(one)), None)
    if found is None:
        return f"none of {len(probed)} checkpoints speaks"
    return f"the first checkpoint that speaks: {found.checkpoint}"


def _of_axis(rows: Iterable[Row], axis: Axis) -> list[Row]:
    return [row for row in rows if row.axis == axis]


def _verdict(rows: Sequence[Row], heard: Sequence[HeardClip], threshold: float) -> Iterator[str]:
    """Sentences, the most telling first."""
    base = _of_axis(rows, Axis.UNCHANGED)[0]
    probed_further = [row for row in rows if row.axis not in (Axis.UNCHANGED, Axis.NOTHING)]
    if not base.clips:
        yield "no clip here is to be answered: only false replies were counted"
    elif base.answered_share < SPEAKS_SHARE:
        yield (
            f"silent: answers {base.answered} of {base.clips} clips that nothing was done to "
            f"(the highest chance to speak is {base.median_peak:.2f} in the median, and it has to "
            f"be above {threshold:.2f})"
        )
        better = max(probed_further, key=lambda row: row.answered, default=base)
        if better.answered > base.answered:
            name = f"{better.axis} {better.value}".rstrip()
            yield f"speaks most with {name}: {better.answered} of {better.clips}"
    else:
        delay = base.median_delay_seconds or 0.0
        where = (
            f"{delay:.1f} s after their end" if delay >= 0 else f"{-delay:.1f} s before their end"
        )
        yield f"answers {base.answered} of {base.clips} clips, in the median {where}"
        yield from _weaknesses(rows, base)
    yield from _false_replies(rows, heard, threshold)


def _weaknesses(rows: Sequence[Row], base: Row) -> Iterator[str]:
    """What it does not stand, each with the mildest condition that is too much."""
    least = SPEAKS_SHARE * base.answered_share
    is_strong = True
    for (axis, _), of_axis in groupby(rows, key=_direction):
        if axis in (Axis.UNCHANGED, Axis.NOTHING):
            continue
        stood: Row | None = None
        for row in of_axis:
            if row.answered_share < least:
                is_strong = False
                yield f"{_weakness(row, stood)} ({row.answered} of {row.clips})"
                break
            stood = row
    if is_strong and len(rows) > 1:
        yield "holds under every condition"


def _direction(row: Row) -> tuple[str, bool]:
    """What is changed, and of gain which way."""
    return row.axis, row.axis == Axis.GAIN and (row.number or 0) > 0


def _weakness(row: Row, stood: Row | None) -> str:
    """In words: `row` is too much, and `stood`, the one before on its axis, is not."""
    value = row.value.removeprefix("+")
    match row.axis:
        case Axis.NOISE:
            if stood is None:
                return "silent in any noise: train with it"
            return f"silent below {stood.value.removeprefix('+')} of speech above noise"
        case Axis.GAIN if (row.number or 0) > 0:
            return f"silent where it is {value} too loud: turn the microphone down"
        case Axis.GAIN:
            return f"deaf to quiet speech from {value} on: turn the microphone up"
        case Axis.GATED:
            return "afraid of digital zero: train with it, or switch the noise gate off"
        case Axis.HISS:
            return f"silent over hiss of {value}: train with it"
        case Axis.BAND:
            return f"silent over a {value}'s band: train with it"
        case Axis.RATE:
            return f"silent after {value} and back: send the microphone's own rate"
        case Axis.CLIPPING:
            return f"silent where {value} of the peaks are cut off: turn the microphone down"
        case Axis.OFFSET:
            return f"silent where speech begins {value} later in a chunk: train with offsets"
    return f"silent with an echo {value}: train with rooms"


def _false_replies(
    rows: Sequence[Row], heard: Sequence[HeardClip], threshold: float
) -> Iterator[str]:
    if spoke := [row for row in _of_axis(rows, Axis.NOTHING) if row.answered]:
        yield f"speaks up at nothing: {', '.join(row.value for row in spoke)}"
    ignored = [h for h in heard if not h.wants_reply and h.axis != Axis.NOTHING]
    false = sum(h.speaks_at(threshold) is not None for h in ignored)
    if ignored and false / len(ignored) > FALSE_SHARE:
        yield f"answers {false} of {len(ignored)} that are to be left unanswered"


# What is shown and written


def _print(probed: Probed, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report_fields(probed), ensure_ascii=False), flush=True)
        return
    print(f"{probed.checkpoint}")
    print(f"  {'':34}{'answered':>10}{'highest':>9}{'after end':>11}")
    for row in probed.rows:
        delay = "" if row.median_delay_seconds is None else f"{row.median_delay_seconds:+.1f} s"
        name = f"{row.axis} {row.value}".rstrip()
        count = f"{row.answered}/{row.clips}"
        print(f"  {name:<34}{count:>10}{row.median_peak:>9.2f}{delay:>11}")
    for sentence in probed.verdict:
        print(f"  * {sentence}")
    sys.stdout.flush()


def report_fields(probed: Probed) -> dict[str, object]:
    """For JSON."""
    return {
        "checkpoint": probed.checkpoint,
        "made_with": probed.made_with,
        "threshold": probed.threshold,
        "speaks": speaks(probed),
        "verdict": list(probed.verdict),
        "rows": [asdict(row) for row in probed.rows],
    }


def write_reports(probed: Sequence[Probed], folder: Path) -> None:
    """The tables of all as CSV, and everything but the probabilities as JSON."""
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(row) for one in probed for row in one.rows)
    report = {
        "first_that_speaks": next((one.checkpoint for one in probed if speaks(one)), None),
        "checkpoints": [report_fields(one) for one in probed],
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    (folder / REPORT).write_text(f"{text}\n", encoding="utf-8")
