"""Scores a checkpoint on held-out audio, streamed through the engine as a user's files are."""

import asyncio
import math
import multiprocessing
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tqdm import tqdm

from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, EngineConfig
from backend.engine import Engine
from backend.engine.cost import SESSION_SECONDS, measure_streaming
from backend.errors import SessionClosedError, SettingsError
from backend.events import Decision, SessionFailed, TurnDone
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.training.clips import LOUD
from backend.training.confusion import Confusions, Panel, everyday_phrases, words_and_sounds
from backend.training.data import SAMPLE_RATE, Kind
from backend.training.domain import SpokenReply
from backend.training.knowledge import SaidKind
from backend.training.listening import edit_distance
from backend.training.split import spoken_words
from backend.training.trials import HeldOut, Trial, by_telephone, quieter, tight
from backend.training.voices import loud_part

CONCURRENT_SESSIONS = 8
TRAILING_SILENCE_CHUNKS = 3
NOISE_RATIOS_DB = (6, 9, 12, 15, 18, 21, 24)
PROMPT_CHUNKS = 2
MAX_MISTAKES = 40
"""As many are kept of one test."""
NOISE_MEAN = "orders, mean over kitchen at 6 to 24 dB"
PROMPTED = {
    Kind.DIGIT_PROMPT: "digits of another speaker, anywhere in a chunk",
    Kind.PHRASE_PROMPT: "phrases of that speaker, anywhere in a chunk",
}
HOUR = "an hour without anything to answer"
QUESTIONS = "everyday questions, unseen voices and wordings"
REPEATED = "repeat after me, unseen voices and sentences"


@dataclass(frozen=True, slots=True)
class TimedReply:
    """A reply, and the chunk after which it began."""

    reply: SpokenReply
    chunk: int

    @property
    def begins_after(self) -> int:
        """Samples of the session that were heard by then."""
        return (self.chunk + 1) * CHUNK_SAMPLES


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said in a trial."""

    trial: Trial
    turns: list[TimedReply]

    @property
    def replies(self) -> tuple[SpokenReply, ...]:
        """In order."""
        return tuple(turn.reply for turn in self.turns)

    @property
    def texts(self) -> list[str]:
        """Of the replies, in order."""
        return [turn.reply.text for turn in self.turns]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A trial that was answered otherwise."""

    name: str
    expected: list[str]
    heard: list[str]


@dataclass(frozen=True, slots=True)
class Score:
    """How a test went."""

    test: str
    trials: int
    right: int
    share: float
    low: float
    """Lower end of the 95 % confidence interval (Wilson)."""
    high: float
    mistakes: list[Mistake]


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds from the last loud sample of what was said to the chunk's end that is answered."""

    replies: int
    median_seconds: float
    highest_seconds: float
    """Of 95 %."""


@dataclass(frozen=True, slots=True)
class FalseReplies:
    """Replies where there should be none, in one long session or several."""

    test: str
    minutes: float
    replies: int
    replies_per_hour: float
    heard: list[str]


@dataclass(slots=True)
class Evaluation:
    """All figures, as `evaluation.json` holds them."""

    chunk_seconds: float = CHUNK_SECONDS
    scores: list[Score] = field(default_factory=list)
    delay: Delay | None = None
    false_replies: list[FalseReplies] = field(default_factory=list)
    """By kind of audio; the last is all of them together."""
    milliseconds_per_chunk: dict[str, float] = field(default_factory=dict)
    """By the session's length: medians on one thread of a CPU."""
    confusions: list[Confusions] = field(default_factory=list)


def wilson_interval(right: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, by Wilson's formula."""
    if trials == 0:
        return 0.0, 1.0
    z, share = 1.959964, right / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def score_of(test: str, trials: int, mistakes: list[Mistake]) -> Score:
    """The score of a test in which everything else was right."""
    right = trials - len(mistakes)
    low, high = wilson_interval(right, trials)
    share = right / max(1, trials)
    kept = mistakes[:MAX_MISTAKES]
    return Score(test, trials, right, round(share, 4), round(low, 4), round(high, 4), kept)


def mean_score(test: str, scores: list[Score]) -> Score:
    """The mean of tests of equal size, as a test of all their trials."""
    trials, right = sum(score.trials for score in scores), sum(score.right for score in scores)
    low, high = wilson_interval(right, trials)
    return Score(
        test, trials, right, round(right / max(1, trials), 4), round(low, 4), round(high, 4), []
    )


# Rules: is an answer right? None where a rule does not apply.

Rule = Callable[[Answer], bool | None]


def exact(answer: Answer) -> bool:
    """Exactly the expected replies in their order, or silence where none is."""
    return answer.replies == answer.trial.expected


def exact_where_due(answer: Answer) -> bool | None:
    """As `exact`, of trials that are to be answered."""
    return exact(answer) if answer.trial.expected else None


def speaks_when_due(answer: Answer) -> bool:
    """Some reply, whichever, if and only if one is expected."""
    return bool(answer.turns) == bool(answer.trial.expected)


def waits_in_pause(answer: Answer) -> bool:
    """No reply to what came before the pause was over."""
    return all(turn.begins_after > answer.trial.resumes_at for turn in answer.turns)


def texts_are_right(answer: Answer) -> bool:
    """Exactly the expected words, whatever the emotion."""
    return answer.texts == [reply.text for reply in answer.trial.expected]


def is_honest(answer: Answer) -> bool:
    """The sentence that says that it is not known, or silence."""
    return answer.texts in ([reply.text for reply in answer.trial.expected], [])


def words_of(texts: list[str]) -> list[str]:
    """What is said in replies, without case and marks."""
    return spoken_words(" ".join(texts)).split()


def _end(answer: Answer) -> int:
    """The last loud sample."""
    return loud_part(answer.trial.audio, LOUD).stop - 1


def starts_promptly(answer: Answer) -> bool | None:
    """The first reply is to the chunk with the last loud sample or to one of the two after it."""
    if not answer.turns:
        return None
    return 0 <= answer.turns[0].chunk - _end(answer) // CHUNK_SAMPLES <= PROMPT_CHUNKS


def waits_for_end(answer: Answer) -> bool | None:
    """The first reply is not to a chunk before the one with the last loud sample."""
    return answer.turns[0].chunk >= _end(answer) // CHUNK_SAMPLES if answer.turns else None


@dataclass(frozen=True, slots=True)
class Check:
    """Trials, and by which rules they are judged."""

    name: str
    trials: Callable[[], list[Trial]]
    rules: Mapping[str, Rule] = field(default_factory=lambda: {"": exact})
    """A rule's name follows the check's."""
    panel: Panel | None = None
    """The confusions in which its answers count."""
    is_timed: bool = False
    mean: str = ""
    """Name of the mean over all checks that give it."""


def checks_of(held_out: HeldOut, words: Panel, phrases: Panel) -> list[Check]:
    """Everything that is streamed trial by trial, and the panels in which it counts."""
    recorded, noisy = held_out.recorded, held_out.noisy
    of_sounds = {": reply or silence": speaks_when_due, ": the right reply": exact_where_due}
    of_pauses = {": the right reply": exact, ": silence in the pause": waits_in_pause}
    return [
        Check(
            "digits of an unseen speaker", partial(recorded, Kind.DIGIT), panel=words, is_timed=True
        ),
        Check("digits, after a moment of silence", partial(held_out.after_silence, Kind.DIGIT)),
        *(
            Check(name, partial(held_out.prompted, kind))
            for kind, name in PROMPTED.items()
            if held_out.has(kind)
        ),
        Check("digits, kitchen at 12 dB", partial(noisy, Kind.DIGIT, 12)),
        Check("digits, by telephone", partial(recorded, Kind.DIGIT, by_telephone)),
        Check("digits, 24 dB quieter", partial(recorded, Kind.DIGIT, quieter)),
        Check("unseen orders", partial(recorded, Kind.ORDER), panel=words, is_timed=True),
        Check("orders, cut tight to the speech", partial(recorded, Kind.ORDER, tight)),
        *(
            Check(
                f"orders, kitchen at {ratio} dB", partial(noisy, Kind.ORDER, ratio), mean=NOISE_MEAN
            )
            for ratio in NOISE_RATIOS_DB
        ),
        Check("orders, a pause before the drink", held_out.paused_orders, of_pauses),
        Check("orders, broken off before the drink: silence", held_out.half_orders, panel=words),
        Check("unseen wake words", partial(recorded, Kind.WAKE_WORD), panel=words, is_timed=True),
        *(
            Check(
                f"phrases, unseen {family} voices",
                partial(held_out.phrases, family),
                panel=phrases,
                is_timed=True,
            )
            for family in ("flite", "espeak", "kokoro")
        ),
        Check(QUESTIONS, partial(held_out.asked, SaidKind.QUESTION), {"": texts_are_right}),
        Check(
            "asked outside of what it knows: says so, or silence",
            partial(held_out.asked, SaidKind.OUTSIDE),
            {"": is_honest},
        ),
        Check(REPEATED, partial(held_out.asked, SaidKind.REPEATED), {"": texts_are_right}),
        Check("two utterances in a row", held_out.pairs),
        Check("unseen sounds", partial(recorded, Kind.SOUND), of_sounds, words),
        Check("sounds late in a conversation", held_out.late_sounds, of_sounds),
        Check("synthetic alarms and music", held_out.synthetic_sounds, of_sounds, words),
    ]


def num_chunks(audio: np.ndarray) -> int:
    """Chunks of a session of `audio` [samples], with the silence that follows it."""
    return -(-audio.size // CHUNK_SAMPLES) + TRAILING_SILENCE_CHUNKS


async def turns_in(engine: Engine, audio: np.ndarray, bar: tqdm) -> list[TimedReply]:
    """What the model says to `audio` [samples], streamed in a session of its own.

    Args:
        engine: with a free slot.
        audio: float32.
        bar: moves on with every chunk that was heard.

    Raises:
        SessionClosedError: the session failed.
    """
    size = num_chunks(audio) * CHUNK_SAMPLES
    chunks = np.pad(audio.astype(np.float32), (0, size - audio.size)).reshape(-1, CHUNK_SAMPLES)
    session = await engine.open_session()
    turns = []
    try:
        async with aclosing(session.follow(chunks)) as events:
            async for event in events:
                match event:
                    case SessionFailed(message):
                        raise SessionClosedError(message)
                    case Decision():
                        bar.update()
                    case TurnDone():
                        turns.append(
                            TimedReply(SpokenReply(str(event.emotion), event.text), event.chunk)
                        )
    finally:
        await session.close()
    return turns


def _bar(name: str, audios: list[np.ndarray]) -> tqdm:
    return tqdm(total=sum(map(num_chunks, audios)), desc=name, unit="chunk", smoothing=0.0)


async def answers_to(engine: Engine, name: str, trials: list[Trial]) -> list[Answer]:
    """Stream every trial, several at a time."""
    room = asyncio.Semaphore(CONCURRENT_SESSIONS)

    async def answer(trial: Trial) -> Answer:
        async with room:
            turns = await turns_in(engine, trial.audio, bar)
        return Answer(trial, [turn for turn in turns if turn.begins_after > trial.judged_from])

    with _bar(name, [trial.audio for trial in trials]) as bar:
        return list(await asyncio.gather(*(answer(trial) for trial in trials)))


def judge(name: str, answers: list[Answer], rule: Rule) -> Score:
    """The score of `answers` by a rule, of those to which it applies."""
    verdicts = [(answer, verdict) for answer in answers if (verdict := rule(answer)) is not None]
    mistakes = [
        Mistake(answer.trial.name, [reply.text for reply in answer.trial.expected], answer.texts)
        for answer, is_right in verdicts
        if not is_right
    ]
    return score_of(name, len(verdicts), mistakes)


def repeated_words(answers: list[Answer]) -> Score:
    """Of all words that were to be repeated, those that were; one that was added is a miss."""
    wrong = num_words = 0
    for answer in answers:
        expected = words_of([reply.text for reply in answer.trial.expected])
        wrong += edit_distance(expected, words_of(answer.texts))
        num_words += len(expected)
    right = max(0, num_words - wrong)
    low, high = wilson_interval(right, num_words)
    share = right / max(1, num_words)
    return Score(
        f"{REPEATED}, by word", num_words, right, round(share, 4), round(low, 4), round(high, 4), []
    )


def delay_of(answers: list[Answer]) -> Delay | None:
    """The delay of first replies; None where there are none."""
    delays = [
        (answer.turns[0].begins_after - _end(answer)) / SAMPLE_RATE
        for answer in answers
        if answer.turns
    ]
    if not delays:
        return None
    highest = float(np.quantile(delays, 0.95))
    return Delay(len(delays), round(statistics.median(delays), 3), round(highest, 3))


def false_replies(test: str, minutes: float, texts: list[str]) -> FalseReplies:
    """The figures of sessions in which `texts` were said."""
    per_hour = round(60 * len(texts) / minutes, 2)
    return FalseReplies(test, round(minutes, 2), len(texts), per_hour, texts[:MAX_MISTAKES])


async def listen_to_nothing(engine: Engine, audios: Mapping[str, np.ndarray]) -> list[FalseReplies]:
    """One long session for each of `audios` [samples], which need no answer; then their sum."""
    with _bar(HOUR, list(audios.values())) as bar:
        sessions = await asyncio.gather(
            *(turns_in(engine, audio, bar) for audio in audios.values())
        )
    minutes = [audio.size / SAMPLE_RATE / 60 for audio in audios.values()]
    texts = [[turn.reply.text for turn in turns] for turns in sessions]
    together = false_replies("together", sum(minutes), [text for said in texts for text in said])
    return [*map(false_replies, audios, minutes, texts), together]


def chunk_milliseconds(checkpoint: str) -> dict[str, float]:
    """What a chunk costs on one thread of a CPU, at several lengths of a session.

    Args:
        checkpoint: as on the command line; it is loaded in a process of its own.
    """
    load = partial(load_checkpoint, checkpoint, device="cpu")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        figures = process.submit(measure_streaming, load, 1).result()
    return {
        f"after {seconds} s": round(cost, 2)
        for seconds, cost in zip(SESSION_SECONDS, figures.milliseconds, strict=True)
    }


async def evaluate(
    checkpoint: Checkpoint, held_out: HeldOut, only: str = "", minutes: float = 60.0
) -> Evaluation:
    """All tests.

    Args:
        checkpoint: on any device.
        held_out: what is streamed.
        only: run the tests whose name contains this.
        minutes: length of what needs no answer.

    Raises:
        SettingsError: no test's name contains `only`.
    """
    words, phrases = words_and_sounds(), everyday_phrases()
    all_checks = checks_of(held_out, words, phrases)
    checks = [check for check in all_checks if only in check.name]
    if not checks and only not in HOUR:
        names = "; ".join([*(check.name for check in all_checks), HOUR])
        raise SettingsError(f"no test's name contains {only!r}; there are: {names}")
    # Before the engine's thread starts, because alignment forks.
    trials = [check.trials() for check in checks]
    result = Evaluation()
    with Engine(checkpoint, EngineConfig(num_slots=CONCURRENT_SESSIONS)) as engine:
        answered = [
            (check, await answers_to(engine, check.name, its_trials))
            for check, its_trials in zip(checks, trials, strict=True)
        ]
        if only in HOUR:
            backgrounds = held_out.backgrounds(minutes)
            result.false_replies = await listen_to_nothing(engine, backgrounds)
    result.scores = scores_of(answered)
    result.scores += [
        repeated_words(answers) for check, answers in answered if check.name == REPEATED
    ]
    timed = [answer for check, answers in answered if check.is_timed for answer in answers]
    if timed:
        result.scores.append(judge("replies within two chunks of the end", timed, starts_promptly))
        result.scores.append(judge("replies not before the end", timed, waits_for_end))
        result.delay = delay_of(timed)
    for panel in (words, phrases):
        pairs = [
            (answer.trial.said, answer.texts)
            for check, answers in answered
            if check.panel is panel
            for answer in answers
        ]
        if pairs:
            result.confusions.append(panel.count(pairs))
    return result


def scores_of(answered: list[tuple[Check, list[Answer]]]) -> list[Score]:
    """A score for every rule of every check, and the means."""
    scores = []
    parts: dict[str, list[Score]] = defaultdict(list)
    for check, answers in answered:
        for suffix, rule in check.rules.items():
            scores.append(judge(check.name + suffix, answers, rule))
        if check.mean:
            parts[check.mean].append(scores[-1])
    return scores + [mean_score(name, of_name) for name, of_name in parts.items()]


def table(result: Evaluation) -> str:
    """All figures as Markdown."""
    lines = ["| test | n | right | 95 % interval |", "|---|---|---|---|"]
    lines += [
        f"| {score.test} | {score.trials} | {score.right} = {score.share:.1%} "
        f"| {score.low:.1%} to {score.high:.1%} |"
        for score in result.scores
    ]
    if result.delay:
        lines += [
            "",
            f"A reply begins {result.delay.median_seconds:.2f} s after the last loud sample "
            f"(median of {result.delay.replies}; 95 %: {result.delay.highest_seconds:.2f} s).",
        ]
    if result.false_replies:
        lines += ["", "| nothing to answer | minutes | replies | an hour |", "|---|---|---|---|"]
        lines += [
            f"| {kind.test} | {kind.minutes:g} | {kind.replies} | {kind.replies_per_hour:g} |"
            for kind in result.false_replies
        ]
    if result.milliseconds_per_chunk:
        costs = [f"{cost:.1f} ms {when}" for when, cost in result.milliseconds_per_chunk.items()]
        lines += ["", f"One chunk on one thread of a CPU: {', '.join(costs)}."]
    return "\n".join(lines)
