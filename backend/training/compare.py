"""Checkpoints side by side, on few recordings of each kind: what to choose by, and to report.

Recordings of which no training hears anything are divided by a hash of their names: one half is for
development, the other is held out and heard only where that is asked for.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from backend.audio import read_audio
from backend.config import CHUNK_SAMPLES, EngineConfig
from backend.engine import Engine
from backend.features import LogMel
from backend.model.checkpoint import load_checkpoint
from backend.training.beginning import from_checkpoint
from backend.training.broad_speech import (
    TRIAL_SENTENCES,
    SpeechClip,
    SpeechStore,
    keep_trial,
)
from backend.training.data import SAMPLE_RATE, Kind, LabelledRecording, load_audio
from backend.training.distil import DistilConfig
from backend.training.domain import SpokenReply
from backend.training.evaluate import (
    CONCURRENT_SESSIONS,
    Answer,
    Mistake,
    Rule,
    answers_to,
    exact,
    false_replies,
    is_honest,
    judge,
    speaks_when_due,
    texts_are_right,
    turns_in,
    wilson_interval,
    words_of,
)
from backend.training.everyday_sounds import EVERYDAY, EverydaySound, everyday_sounds
from backend.training.features import stream_log_mel
from backend.training.knowledge import SaidKind
from backend.training.listening import edit_distance
from backend.training.model import TrainingModel
from backend.training.split import Split, side
from backend.training.tokens import stream_sequence
from backend.training.trials import (
    PLACES_SECONDS,
    TRIALS,
    HeldOut,
    Trial,
    held_out_readings,
    in_a_row,
    phrase_trial,
    silence,
)
from backend.training.voices import synthesise_all
from backend.training.word_pieces import best_path

RATIOS_DB = (6, 12, 18, 24)
SOUND_SECONDS = 5
"""Of an everyday sound that is answered or is not."""
AN_HOUR = "false replies an hour"
AGAIN = "repeat after me: word error"
OUTSIDE_WORDS = "word error of live words, outside the known world"
INSIDE_WORDS = "word error of live words, everyday questions"
GOALS = {
    "digits": ("97 %", "99 %"),
    "orders, kitchen": ("91 %", "97.6 %"),
    "orders": ("96 %", "98 %"),
    "wake words": ("99 %", "99.7 %"),
    "sounds: reply": ("92 %", "96 %"),
    "recorded sirens": ("9 of 10", "10 of 10"),
    "everyday questions": ("85 %", "95 %"),
    "asked outside": ("90 %", "97 %"),
    AGAIN: ("35 %", "20 %"),
    OUTSIDE_WORDS: ("25 %", "14 %"),
    AN_HOUR: ("10", "2"),
}
"""What figures are to reach and then to beat, by how their names begin."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: how a checkpoint does in a test."""

    test: str
    number: int
    """Of trials, or of words."""
    value: float
    """A share, or replies an hour."""
    low: float
    """Lower end of the 95 % confidence interval (Wilson)."""
    high: float
    mistakes: tuple[Mistake, ...] = ()


@dataclass(frozen=True, slots=True)
class Test:
    """Trials that are judged by one rule."""

    name: str
    trials: Callable[[], list[Trial]]
    rule: Rule = exact


Item = TypeVar("Item")


def thinned(items: list[Item], most: int) -> list[Item]:
    """At most so many of them, always the same."""
    return items if len(items) <= most else random.Random(most).sample(items, most)


class ComparedCheckpoint:
    """What a comparison hears of one split.

    Args:
        held_out: the trials of it.
        split: development or held out.
        most: trials of one test.
    """

    def __init__(self, held_out: HeldOut, split: Split, most: int) -> None:
        self.held_out, self.split, self.most = held_out, split, most
        self.sounds = [
            entry
            for entry in everyday_sounds()
            if entry.split is split and (held_out.data / EVERYDAY / entry.file).exists()
        ]

    def tests(self) -> list[Test]:
        """Everything that is streamed trial by trial, in the order of the table."""
        recorded, asked = self.held_out.recorded, self.held_out.asked
        return [
            Test("digits of an unseen speaker", partial(recorded, Kind.DIGIT)),
            Test(
                "digits of another speaker, ten places in a chunk",
                partial(self.held_out.prompted, Kind.DIGIT_PROMPT),
            ),
            Test("orders", partial(recorded, Kind.ORDER)),
            *(
                Test(
                    f"orders, kitchen at {ratio} dB",
                    partial(self.held_out.noisy, Kind.ORDER, ratio),
                )
                for ratio in RATIOS_DB
            ),
            Test("wake words", partial(recorded, Kind.WAKE_WORD)),
            Test("phrases, unseen voices", self._phrases),
            Test(
                "sounds: reply or silence",
                lambda: recorded(Kind.SOUND) + self.everyday(),
                speaks_when_due,
            ),
            Test("sounds with a reply: the right one", self._answered, texts_are_right),
            Test("recorded sirens and alarms, ten places", self._alarms, texts_are_right),
            Test(
                "everyday questions", partial(asked, SaidKind.QUESTION, self.split), texts_are_right
            ),
            Test(
                "asked outside: honest or silent",
                partial(asked, SaidKind.OUTSIDE, self.split),
                is_honest,
            ),
        ]

    def _phrases(self) -> list[Trial]:
        """In voices that take no time."""
        jobs = [
            job
            for job in held_out_readings()
            if job.line.kind == "phrase"
            and job.voice.startswith("flite:")
            and side(f"{job.line.text} {job.voice}", 0.5) is self.split
        ]
        chosen = random.Random("phrases").sample(jobs, min(self.most, len(jobs)))
        trials = [
            phrase_trial(job, audio.astype(np.float32) / 32767)
            for job, audio in synthesise_all(chosen, self.held_out.workers)
        ]
        return [trial for trial in trials if trial]

    def everyday(self) -> list[Trial]:
        """The first seconds of everyday sounds."""
        return [self._trial(entry, 0.3) for entry in self.sounds]

    def _answered(self) -> list[Trial]:
        trials = self.held_out.recorded(Kind.SOUND) + self.everyday()
        return [trial for trial in trials if trial.expected]

    def _alarms(self) -> list[Trial]:
        return [
            self._trial(entry, seconds)
            for entry in self.sounds
            if entry.sound == "alarm"
            for seconds in PLACES_SECONDS
        ]

    def _trial(self, entry: EverydaySound, lead_seconds: float) -> Trial:
        audio = load_audio(self.held_out.data / EVERYDAY / entry.file)
        heard = np.concatenate([silence(lead_seconds), audio[: SOUND_SECONDS * SAMPLE_RATE]])
        reply: tuple[SpokenReply, ...] = (entry.reply,) if entry.reply else ()
        return Trial(f"{entry.file}, after {lead_seconds:.2f} s", entry.sound, heard, reply)

    def nothing_to_answer(self, minutes: float) -> dict[str, np.ndarray]:
        """What needs no answer, by name: equal parts of `minutes`, [samples]."""
        num_samples = int(minutes * 60 * SAMPLE_RATE) // 5
        groups = {
            "everyday sounds": [e for e in self.sounds if not e.reply and e.sound != "music"],
            "music": [entry for entry in self.sounds if entry.sound == "music"],
            "typing and things": [
                e for e in self.sounds if e.sound in ("typing", "thing", "knock")
            ],
        }
        rng = random.Random("nothing to answer")
        audios = {
            name: in_a_row(
                [load_audio(self.held_out.data / EVERYDAY / entry.file) for entry in entries],
                num_samples,
                (0.2, 1.0),
                rng,
            )
            for name, entries in groups.items()
            if entries
        }
        audios["kitchen"] = np.resize(self.held_out.kitchen, num_samples)
        prompts = [entry for entry in self.held_out.recordings if entry.kind is Kind.PROMPT]
        if prompts:
            spoken = [read_audio(self.held_out.data / e.file) for e in thinned(prompts, self.most)]
            audios["foreign speech"] = in_a_row(spoken, num_samples, (0.3, 2.0), rng)
        return audios


def _share(name: str, right: int, number: int, mistakes: Sequence[Mistake] = ()) -> Figure:
    low, high = wilson_interval(right, number)
    return Figure(name, number, right / max(1, number), low, high, tuple(mistakes))


def repeated(answers: list[Answer]) -> Figure:
    """Word error of what was to be repeated."""
    pairs = [
        (words_of([reply.text for reply in answer.trial.expected]), words_of(answer.texts))
        for answer in answers
    ]
    wrong = sum(edit_distance(expected, heard) for expected, heard in pairs)
    number = sum(len(expected) for expected, _ in pairs)
    mistakes = [
        Mistake(answer.trial.name, [" ".join(expected)], answer.texts)
        for answer, (expected, heard) in zip(answers, pairs, strict=True)
        if expected != heard
    ]
    return _share(AGAIN, min(wrong, number), number, mistakes)


def _word_error(name: str, pairs: list[tuple[str, str]]) -> Figure:
    wrong = sum(edit_distance(said.split(), heard.split()) for said, heard in pairs)
    number = sum(len(said.split()) for said, _ in pairs)
    mistakes = [Mistake(said, [said], [heard]) for said, heard in pairs if said != heard]
    return _share(name, min(wrong, number), number, mistakes)


def live_words(source: str, speech: Mapping[str, list[SpeechClip]]) -> list[Figure]:
    """Word error of a checkpoint's live words; nothing where it has none.

    Args:
        source: `embedded`, a folder or a Hub id.
        speech: clips by the name of their test.
    """
    beginning = from_checkpoint(source)
    if "word_head.weight" not in (beginning.weights or {}):
        return []
    model = TrainingModel(beginning.shape, beginning.vocabulary.size, beginning.pieces.size)
    beginning.begin(model)
    model.eval()
    log_mel = LogMel()

    @torch.no_grad()
    def heard(clip: SpeechClip) -> str:
        num_chunks = clip.audio.size // CHUNK_SAMPLES + 3
        audio = np.zeros((1, num_chunks * CHUNK_SAMPLES), np.float32)
        audio[0, SAMPLE_RATE // 4 :][: clip.audio.size] = clip.audio.astype(np.float32) / 32767
        sequence = stream_sequence(
            beginning.vocabulary, beginning.system_prompt, {}, set(), num_chunks
        )
        outputs = model(
            stream_log_mel(log_mel, torch.from_numpy(audio)),
            torch.tensor([sequence.ids]),
            torch.tensor([sequence.audio_positions]),
        )
        return beginning.pieces.text_of(best_path(outputs.words[0]))

    return [
        _word_error(name, [(clip.text, heard(clip)) for clip in tqdm(clips, desc=name)])
        for name, clips in speech.items()
    ]


def speech_of(held_out: HeldOut, split: Split, most: int) -> dict[str, list[SpeechClip]]:
    """Sentences that are read to the word head, by the name of their test."""
    store = SpeechStore(held_out.work / TRIALS)
    keep_trial(store, held_out.data, split, DistilConfig().seed)
    asked = held_out.asked_clips(SaidKind.QUESTION, split)
    outside = store.read(split)[TRIAL_SENTENCES // 2 :]  # everyday sentences come first
    return {INSIDE_WORDS: asked[:most], OUTSIDE_WORDS: outside[:most]}


async def figures_of(
    source: str,
    tests: list[tuple[Test, list[Trial]]],
    say_again: list[Trial],
    nothing: Mapping[str, np.ndarray],
) -> list[Figure]:
    """How a checkpoint does in all tests that are streamed."""
    figures = []
    checkpoint = load_checkpoint(source, device="cpu")
    with Engine(checkpoint, EngineConfig(num_slots=CONCURRENT_SESSIONS)) as engine:
        for test, trials in tests:
            score = judge(test.name, await answers_to(engine, test.name, trials), test.rule)
            figures.append(_share(test.name, score.right, score.trials, score.mistakes))
        figures.append(repeated(await answers_to(engine, "repeat after me", say_again)))
        with tqdm(desc="nothing to answer", unit="chunk") as bar:
            sessions = await asyncio.gather(
                *(turns_in(engine, audio, bar) for audio in nothing.values())
            )
    minutes = 0.0
    replies: list[Mistake] = []
    for (name, audio), turns in zip(nothing.items(), sessions, strict=True):
        told = false_replies(name, audio.size / SAMPLE_RATE / 60, [t.reply.text for t in turns])
        replies += [Mistake(name, [], [text]) for text in told.heard]
        minutes += told.minutes
        figures.append(false_replies_an_hour(f"{AN_HOUR}: {name}", told.replies, told.minutes))
    together = false_replies_an_hour(AN_HOUR, len(replies), minutes)
    return [*figures, replace(together, mistakes=tuple(replies))]


def false_replies_an_hour(name: str, replies: int, minutes: float) -> Figure:
    """A rate and the 95 % interval of a Poisson count (Byar's approximation)."""
    low = replies * (1 - 1 / (9 * replies) - 1.96 / (3 * replies**0.5)) ** 3 if replies else 0.0
    more = replies + 1
    high = more * (1 - 1 / (9 * more) + 1.96 / (3 * more**0.5)) ** 3
    hours = max(minutes, 1e-9) / 60
    return Figure(name, replies, replies / hours, max(0.0, low) / hours, high / hours)


@dataclass(frozen=True, slots=True)
class CheckpointComparison:
    """All figures of all checkpoints."""

    split: Split
    minutes: float
    """Of what needs no answer."""
    seconds: float
    """That it took."""
    figures: dict[str, list[Figure]]
    """By checkpoint."""


def compare(
    sources: Sequence[str], held_out: HeldOut, split: Split, most: int, minutes: float
) -> CheckpointComparison:
    """Every checkpoint in every test.

    Args:
        sources: `embedded`, folders or Hub ids.
        held_out: the recordings of the split.
        split: development, to choose by; held out, to report.
        most: trials of a test at most.
        minutes: length of what needs no answer.
    """
    began = time.monotonic()
    heard = ComparedCheckpoint(held_out, split, most)
    tests = [(test, thinned(test.trials(), most)) for test in heard.tests()]
    say_again = thinned(held_out.asked(SaidKind.REPEATED, split), most)
    nothing = heard.nothing_to_answer(minutes)
    speech = speech_of(held_out, split, most)
    figures = {
        source: asyncio.run(figures_of(source, tests, say_again, nothing))
        + live_words(source, speech)
        for source in sources
    }
    return CheckpointComparison(split, minutes, round(time.monotonic() - began, 1), figures)


def half(recordings: list[LabelledRecording], split: Split) -> list[LabelledRecording]:
    """The half of the recordings that is for development, or held out."""
    return [recording for recording in recordings if side(recording.file, 0.5) is split]


def side_by_side(comparison: CheckpointComparison) -> str:
    """All figures as Markdown."""
    named = {
        source: {figure.test: figure for figure in figures}
        for source, figures in comparison.figures.items()
    }
    tests = list(dict.fromkeys(test for figures in named.values() for test in figures))
    lines = [
        f"| {comparison.split}; {comparison.seconds:.0f} s | n | {' | '.join(named)} "
        "| reach | beat |",
        "|---" * (len(named) + 4) + "|",
    ]
    for test in tests:
        found = [figures.get(test) for figures in named.values()]
        number = next(figure.number for figure in found if figure)
        cells = " | ".join(_written(figure) for figure in found)
        reach, beat = next(
            (goal for name, goal in GOALS.items() if test.startswith(name)), ("", "")
        )
        lines.append(f"| {test} | {number} | {cells} | {reach} | {beat} |")
    return "\n".join(lines)


def _written(figure: Figure | None) -> str:
    if figure is None:
        return "none"
    if figure.test.startswith(AN_HOUR):
        return f"{figure.value:.0f} ({figure.low:.0f} to {figure.high:.0f})"
    return f"{figure.value:.1%} ({figure.low:.0%} to {figure.high:.0%})"
