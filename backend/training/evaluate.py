"""Scores a checkpoint on held-out recordings, streamed through the engine as a user's files are."""

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from backend.audio import Chunker
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, EngineConfig
from backend.engine import Engine
from backend.events import TurnDone
from backend.model.checkpoint import Checkpoint
from backend.training.augment import rms
from backend.training.data import SAMPLE_RATE, Kind, Recording, is_held_out, load_audio
from backend.training.domain import Reply
from backend.training.streams import KITCHEN_TRAINING_SHARE
from backend.training.voices import trim_silence

CONCURRENT_SESSIONS = 8
TRAILING_SILENCE_CHUNKS = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """Audio `[samples]` of one session, and what is right to answer: once, or not at all."""

    name: str
    audio: np.ndarray
    expected: Reply | None


@dataclass(frozen=True, slots=True)
class Mistake:
    """A trial that was answered otherwise."""

    name: str
    expected: str | None
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
class FalseReplies:
    """Replies where there should be none, in one long session."""

    test: str
    minutes: float
    replies: int
    replies_per_minute: float


def wilson_interval(right: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, by Wilson's formula."""
    if trials == 0:
        return 0.0, 1.0
    z, share = 1.959964, right / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return (middle - spread) / scale, (middle + spread) / scale


def _chunks(audio: np.ndarray) -> Iterator[np.ndarray]:
    chunker = Chunker()
    yield from chunker.push(audio.astype(np.float32))
    if (rest := chunker.flush()) is not None:
        yield rest
    for _ in range(TRAILING_SILENCE_CHUNKS):
        yield np.zeros(CHUNK_SAMPLES, np.float32)


async def _replies(engine: Engine, audio: np.ndarray) -> list[Reply]:
    """What the model says to `audio`, streamed in a session of its own."""
    session = await engine.open_session()

    async def feed() -> None:
        for chunk in _chunks(audio):
            await session.feed(chunk)
        session.finish()

    feeding = asyncio.create_task(feed())
    replies = [
        Reply(str(event.emotion), event.text)
        async for event in session.events()
        if isinstance(event, TurnDone)
    ]
    await feeding
    await session.close()
    return replies


async def score(engine: Engine, test: str, trials: list[Trial]) -> Score:
    """Stream every trial; right is exactly the expected reply, or silence where none is."""
    room = asyncio.Semaphore(CONCURRENT_SESSIONS)
    bar = tqdm(total=len(trials), desc=test)

    async def listen(trial: Trial) -> Mistake | None:
        async with room:
            replies = await _replies(engine, trial.audio)
        bar.update()
        if replies == ([trial.expected] if trial.expected else []):
            return None
        expected = trial.expected.text if trial.expected else None
        return Mistake(trial.name, expected, [reply.text for reply in replies])

    with bar:
        answers = await asyncio.gather(*(listen(trial) for trial in trials))
    mistakes = [mistake for mistake in answers if mistake]
    right = len(trials) - len(mistakes)
    low, high = wilson_interval(right, len(trials))
    share = right / max(1, len(trials))
    return Score(test, len(trials), right, round(share, 4), round(low, 4), round(high, 4), mistakes)


async def false_replies(engine: Engine, test: str, audio: np.ndarray) -> FalseReplies:
    """Replies to a long session of sounds that need none."""
    replies = await _replies(engine, audio)
    minutes = audio.size / SAMPLE_RATE / 60
    return FalseReplies(test, round(minutes, 2), len(replies), round(len(replies) / minutes, 3))


def tight(audio: np.ndarray) -> np.ndarray:
    """Cut so that speech begins with the first sample and ends with the last."""
    return trim_silence(audio, margin_seconds=0.0, threshold=0.02)


def with_noise(noise: np.ndarray, ratio_db: float) -> Callable[[np.ndarray], np.ndarray]:
    """Adds a part of `noise` that is `ratio_db` below the speech, another part each time."""
    position = 0

    def add(audio: np.ndarray) -> np.ndarray:
        nonlocal position
        part = np.resize(np.roll(noise, -position), audio.size)
        position = (position + audio.size) % noise.size
        voice = tight(audio)
        level = rms(voice) * np.abs(audio).max() / np.abs(voice).max()
        return audio + part * (level / rms(noise) * 10 ** (-ratio_db / 20))

    return add


def _unchanged(audio: np.ndarray) -> np.ndarray:
    return audio


class HeldOut:
    """The held-out recordings under a data folder."""

    def __init__(self, data: Path, recordings: list[Recording]) -> None:
        self.data = data
        self.recordings = [recording for recording in recordings if is_held_out(recording)]

    def trials(
        self, kind: Kind, change: Callable[[np.ndarray], np.ndarray] = _unchanged
    ) -> list[Trial]:
        """A trial for every held-out recording of a kind."""
        return [
            Trial(recording.file, change(load_audio(self.data / recording.file)), recording.reply)
            for recording in self.recordings
            if recording.kind is kind
        ]

    def kitchen(self) -> np.ndarray:
        """The part of the kitchen noise that training does not use."""
        audio = load_audio(self.data / "noise" / "kitchen.ogg")
        return audio[int(audio.size * KITCHEN_TRAINING_SHARE) :]


async def evaluate(checkpoint: Checkpoint, held_out: HeldOut) -> dict[str, object]:
    """All tests; the result is what `evaluation.json` holds."""
    kitchen = held_out.kitchen()
    tests = [
        ("digits of an unseen speaker", held_out.trials(Kind.DIGIT)),
        ("the same, kitchen noise at 12 dB", held_out.trials(Kind.DIGIT, with_noise(kitchen, 12))),
        ("unseen orders", held_out.trials(Kind.ORDER)),
        ("the same, cut tight to the speech", held_out.trials(Kind.ORDER, tight)),
        ("the same, kitchen noise at 12 dB", held_out.trials(Kind.ORDER, with_noise(kitchen, 12))),
        ("wake words: silence", held_out.trials(Kind.WAKE_WORD)),
        ("sounds: silence", held_out.trials(Kind.SOUND)),
    ]
    sounds = np.concatenate([trial.audio for trial in held_out.trials(Kind.SOUND)])
    with Engine(checkpoint, EngineConfig(num_slots=CONCURRENT_SESSIONS)) as engine:
        scores = [await score(engine, test, trials) for test, trials in tests]
        long_sessions = [
            await false_replies(engine, "kitchen", kitchen),
            await false_replies(engine, "sounds of fold 4, one after the other", sounds),
        ]
    return {
        "chunk_seconds": CHUNK_SECONDS,
        "scores": [asdict(score) for score in scores],
        "false_replies": [asdict(session) for session in long_sessions],
    }


def table(result: dict[str, object]) -> str:
    """The result as a Markdown table."""
    lines = ["| test | n | right | 95 % interval |", "|---|---|---|---|"]
    scores = result["scores"]
    assert isinstance(scores, list)
    for entry in scores:
        lines.append(
            f"| {entry['test']} | {entry['trials']} | {entry['right']} = {entry['share']:.1%} "
            f"| {entry['low']:.1%} to {entry['high']:.1%} |"
        )
    return "\n".join(lines)
