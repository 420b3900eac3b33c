"""Talk with a server and leave it all in the layout of Full-Duplex-Bench: `app.py duplex-bench`.

The benchmark (github.com/DanielLin94144/Full-Duplex-Bench) asks whether a spoken dialogue model
waits for a pause to end, takes its turn, and how it bears voices over its replies. Its recordings
cannot be shipped; these samples are made of clips of one's own, in its layout of versions 1.0 and
1.5, so that its own scripts read them. Scored here are those of its metrics that are rules.

One thing is not as there: it transcribes what a model says with a recogniser. The words here are
those that the server sent, spread evenly over the sound in which they were spoken.
"""

import argparse
import asyncio
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from backend.audio import Samples
from backend.config import SAMPLE_RATE_HZ
from backend.conversation.voice_activity import VOICE_WINDOW_SAMPLES, VOICE_WINDOW_SECONDS, Silero
from backend.errors import SettingsError
from study.judge import (
    PAUSE_SECONDS,
    JudgeLog,
    RecordedVoice,
    find_voices,
    in_conversation,
)
from study.judged import RATE_HZ, Api, JudgedServerError

SIDE_BY_SIDE = 2
"""So many conversations, each a sample, are had at the same time."""
ANSWER_SECONDS = 6.0
"""Of quiet after the last voice of a sample."""
OVER_SECONDS = 1.5
"""After an utterance's end another voice begins, in the middle of most replies."""
BACKGROUND_GAIN = 0.25
"""Of a voice that is not near: 12 dB weaker."""
LONG_ENOUGH_SECONDS = 1.0
"""A shorter utterance has no place for a pause."""

TURN_SECONDS = 1.0
TURN_WORDS = 3
"""The benchmark's: what is shorter and has no more words is a backchannel and takes no turn."""
USER_GAP_SECONDS = 0.6
MODEL_GAP_SECONDS = 0.5
"""The benchmark's: shorter silences are part of what is said."""
VOICED = 0.5
SHORTEST_VOICE_SECONDS = 0.25
"""Silero's defaults, with which the benchmark runs it."""

RUN_FILE = "run.json"
Span = tuple[float, float]


class DuplexTask(StrEnum):
    """What is tried: the benchmark's names, and its folders."""

    PAUSE = "v1_0/pause_handling"
    TURN = "v1_0/smooth_turn_taking"
    INTERRUPTION = "v1_0/user_interruption"
    OVER_INTERRUPTION = "v1_5/user_interruption"
    OVER_BACKCHANNEL = "v1_5/user_backchannel"
    OVER_ASIDE = "v1_5/talking_to_other"
    OVER_BACKGROUND = "v1_5/background_speech"

    @property
    def has_clean(self) -> bool:
        """Whether the same is recorded without the voice over the reply."""
        return self.startswith("v1_5")


@dataclass(frozen=True, slots=True)
class DuplexSample:
    """One folder of the benchmark."""

    task: DuplexTask
    number: int
    sound: Samples
    """What the user says, float32 `[n]` at 24 kHz."""
    notes: Mapping[str, object]
    """Of each JSON file, by its name."""

    def folder(self, root: Path) -> Path:
        """Where it lies."""
        return root / self.task / str(self.number)


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of a reply, and when it was heard."""

    text: str
    start: float
    end: float


def duplex_bench(parsed: argparse.Namespace) -> int:
    """Talk with a server through all samples, or score a folder; returns the exit code."""
    if parsed.server is not None:
        problems: list[str] = []
        voices = find_voices(parsed.clips, problems)
        for problem in problems:
            print(problem, file=sys.stderr)
        samples = list(samples_of(voices))
        run = {"server": parsed.server, "clips": [voice.name for voice in voices]}
        _begin(parsed.out, run)
        asyncio.run(_record_all(parsed, samples))
    print(json.dumps(scores(parsed.out)) if parsed.json else table(scores(parsed.out)), flush=True)
    return 0


def _begin(out: Path, run: dict[str, object]) -> None:
    """Make the folder, or go on in it.

    Raises:
        SettingsError: it holds something else.
    """
    made = out / RUN_FILE
    if made.is_file() and json.loads(made.read_text(encoding="utf-8")) == run:
        return
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} holds another server's or other clips' samples: take a new one")
    out.mkdir(parents=True, exist_ok=True)
    made.write_text(json.dumps(run), encoding="utf-8")


# What is said


def samples_of(voices: Sequence[RecordedVoice]) -> Iterator[DuplexSample]:
    """All samples that can be made of some voices, those without a second voice first."""
    for number, voice in enumerate(voices, start=1):
        notes = {"turn_taking.json": [_marked("[TURN-TAKING]", voice.seconds, voice.seconds)]}
        yield DuplexSample(DuplexTask.TURN, number, _then(voice.samples, ANSWER_SECONDS), notes)
    for number, voice in enumerate(voices, start=1):
        if voice.seconds >= LONG_ENOUGH_SECONDS:
            before, after = voice.halves
            paused = len(before) / RATE_HZ
            sound = np.concatenate([_then(before, PAUSE_SECONDS), after])
            notes = {"pause.json": [_marked("[PAUSE]", paused, paused + PAUSE_SECONDS)]}
            yield DuplexSample(DuplexTask.PAUSE, number, sound, notes)
    for number, (voice, other) in enumerate(pairwise([*voices, voices[0]]), start=1):
        for task, over in (
            (DuplexTask.INTERRUPTION, other.samples),
            (DuplexTask.OVER_INTERRUPTION, other.samples),
            (DuplexTask.OVER_BACKCHANNEL, voice.backchannel),
            (DuplexTask.OVER_ASIDE, other.samples),
            (DuplexTask.OVER_BACKGROUND, (BACKGROUND_GAIN * other.samples).astype(np.float32)),
        ):
            before = _then(voice.samples, OVER_SECONDS)
            start, end = len(before) / RATE_HZ, (len(before) + len(over)) / RATE_HZ
            sound = np.concatenate([before, _then(over, ANSWER_SECONDS)])
            yield DuplexSample(task, number, sound, _over_notes(task, voice, other, (start, end)))


def _over_notes(
    task: DuplexTask, voice: RecordedVoice, other: RecordedVoice, span: Span
) -> dict[str, object]:
    """Clips have no transcripts: their names stand for what they say."""
    if task is DuplexTask.INTERRUPTION:
        said = {"context": voice.name, "interrupt": other.name, "timestamp": span}
        return {"interrupt.json": [said]}
    over = {"context_text": voice.name, "current_turn_text": other.name, "timestamps": span}
    return {"metadata.json": over}


def _marked(text: str, start: float, end: float) -> dict[str, object]:
    return {"text": text, "timestamp": [round(start, 3), round(end, 3)]}


def _then(samples: Samples, quiet_seconds: float) -> Samples:
    return np.pad(samples, (0, round(quiet_seconds * RATE_HZ)))


# How the server answers


async def _record_all(parsed: argparse.Namespace, samples: Sequence[DuplexSample]) -> None:
    free = asyncio.Semaphore(SIDE_BY_SIDE)
    with tqdm(total=len(samples), unit="sample", leave=False, disable=None) as bar:

        async def record(sample: DuplexSample) -> None:
            async with free:
                if not (sample.folder(parsed.out) / "output.json").is_file():
                    await _record(parsed, sample)
                bar.update()

        try:
            async with asyncio.TaskGroup() as recording:
                for sample in samples:
                    recording.create_task(record(sample))
        except* JudgedServerError as broken:
            # The first says it; the others were broken off for it.
            raise broken.exceptions[0] from None
    for sample in samples:
        if sample.task.has_clean:
            _add_clean(sample, parsed.out)


async def _record(parsed: argparse.Namespace, sample: DuplexSample) -> None:
    log = JudgeLog()
    async with in_conversation(parsed, Api.REALTIME, log) as microphone:
        began, ended = await microphone.speak(sample.sound)
    folder = sample.folder(parsed.out)
    folder.mkdir(parents=True, exist_ok=True)
    _write_sound(folder / "input.wav", sample.sound)
    track = log.player.track(began, ended)
    _write_sound(folder / "output.wav", track)
    for name, note in sample.notes.items():
        (folder / name).write_text(json.dumps(note), encoding="utf-8")
    # Last, for by this file a sample counts as done.
    words = words_of(log, began, ended)
    (folder / "output.json").write_text(json.dumps(transcript(words)), encoding="utf-8")


def _add_clean(sample: DuplexSample, root: Path) -> None:
    """The same utterance without a voice over its reply, which is a sample of its own."""
    folder, alone = sample.folder(root), root / DuplexTask.TURN / str(sample.number)
    for name in ("input.wav", "output.wav", "output.json"):
        shutil.copyfile(alone / name, folder / f"clean_{name}")


def _write_sound(path: Path, samples: Samples) -> None:
    at_16_khz = soxr.resample(samples, RATE_HZ, SAMPLE_RATE_HZ)
    soundfile.write(path, at_16_khz, SAMPLE_RATE_HZ, subtype="PCM_16")


def words_of(log: JudgeLog, began: float, ended: float) -> list[SpokenWord]:
    """What was heard of every reply, in seconds from the beginning of a sample."""
    words = []
    for item in dict.fromkeys(text.item for text in log.texts):
        said = "".join(text.text for text in log.texts if text.item == item).split()
        if (span := log.player.span_of(item)) is None or not said:
            continue
        start, whole_end, heard_until = span
        places = np.cumsum([0, *(len(word) + 1 for word in said)])
        times = start + (whole_end - start) * places / places[-1]
        words += [
            SpokenWord(word, round(first - began, 3), round(min(last, heard_until) - began, 3))
            for word, first, last in zip(said, times, times[1:], strict=False)
            if first < min(heard_until, ended)
        ]
    return sorted(words, key=lambda word: word.start)


def transcript(words: Sequence[SpokenWord]) -> dict[str, object]:
    """As the benchmark's recogniser writes it."""
    chunks = [{"text": word.text, "timestamp": [word.start, word.end]} for word in words]
    return {"text": " ".join(word.text for word in words), "chunks": chunks}


# What it means


def scores(root: Path) -> dict[str, dict[str, float | int | None]]:
    """What the benchmark's rules say of every task in a folder, ours or another model's.

    Of each: `samples`; in version 1.0 `takes_turn`, the share of samples in which the model takes
    a turn, and `latency`, the mean of seconds until it does; in 1.5 `stop` and `response`, the
    means of seconds for which both speak, and from the end of a voice to the next reply.
    """
    found = {task.value: _score(task, root / task) for task in DuplexTask if (root / task).is_dir()}
    if not found:
        raise SettingsError(f"{root} holds no samples: give a server's address to talk with")
    return found


def _score(task: DuplexTask, folder: Path) -> dict[str, float | int | None]:
    done = sorted(path.parent for path in folder.glob("*/output.json"))
    if task.has_clean:
        timings = [overlaps_and_gaps(sample) for sample in done]
        return {
            "samples": len(done),
            "stop": _mean(end - start for stops, _ in timings for start, end in stops),
            "response": _mean(end - start for _, gaps in timings for start, end in gaps),
        }
    turns, latencies = [], []
    for sample in done:
        since = _turn_begins(task, sample)
        words = [
            word
            for word in _read_words(sample)
            if task is not DuplexTask.INTERRUPTION or word.start >= since
        ]
        turns.append(takes_turn(words))
        if turns[-1] and task is not DuplexTask.PAUSE:
            latencies.append(max(0.0, words[0].start - since))
    return {"samples": len(done), "takes_turn": _mean(turns), "latency": _mean(latencies)}


def _turn_begins(task: DuplexTask, sample: Path) -> float:
    """When the user has finished, in seconds; 0 where nothing is counted from there."""
    match task:
        case DuplexTask.TURN:
            return float(_read(sample / "turn_taking.json")[0]["timestamp"][0])
        case DuplexTask.INTERRUPTION:
            return float(_read(sample / "interrupt.json")[0]["timestamp"][1])
        case _:
            return 0.0


def takes_turn(words: Sequence[SpokenWord]) -> bool:
    """Whether what was said is more than a backchannel, by the benchmark's rule."""
    if not words:
        return False
    return words[-1].end - words[0].start >= TURN_SECONDS or len(words) > TURN_WORDS


def overlaps_and_gaps(sample: Path) -> tuple[list[Span], list[Span]]:
    """For how long both speak, and how long a reply takes, by the benchmark's rule.

    Each overlap is counted once, by its end. A gap leads from the last voice of the user before
    a reply to that reply.
    """
    user = voiced_spans(sample / "input.wav", USER_GAP_SECONDS)
    model = voiced_spans(sample / "output.wav", MODEL_GAP_SECONDS)
    both = [(max(u[0], m[0]), min(u[1], m[1])) for u in user for m in model]
    gaps: dict[float, Span] = {}
    for _, end in user:
        following = [start for start, _ in model if start > end]
        if following:
            gaps[following[0]] = (end, following[0])
    return [span for span in both if span[1] > span[0]], list(gaps.values())


def voiced_spans(path: Path, gap_seconds: float) -> list[Span]:
    """Where a recording at 16 kHz holds voice, in seconds; shorter gaps are part of it."""
    samples, _ = soundfile.read(path, dtype="float32")
    silero, spans = Silero(), list[Span]()
    for number in range(len(samples) // VOICE_WINDOW_SAMPLES):
        window = samples[number * VOICE_WINDOW_SAMPLES :][:VOICE_WINDOW_SAMPLES]
        start = number * VOICE_WINDOW_SECONDS
        if silero(window) >= VOICED:
            if spans and start - spans[-1][1] <= gap_seconds:
                start = spans.pop()[0]
            spans.append((start, (number + 1) * VOICE_WINDOW_SECONDS))
    return [(start, end) for start, end in spans if end - start >= SHORTEST_VOICE_SECONDS]


def _read_words(sample: Path) -> list[SpokenWord]:
    # A recogniser leaves the end of a last word open at times.
    return [
        SpokenWord(chunk["text"], start, start if end is None else end)
        for chunk in _read(sample / "output.json")["chunks"]
        for start, end in [chunk["timestamp"]]
    ]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read, without which it cannot be scored") from error


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return round(mean(listed), 3) if listed else None


def table(found: dict[str, dict[str, float | int | None]]) -> str:
    """In lines."""
    return "\n".join(
        f"{task:<28}"
        + "  ".join(f"{name} {'-' if value is None else value}" for name, value in of.items())
        for task, of in found.items()
    )
