"""Streams of broad speech with what Whisper makes of them, to learn to hear by."""

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from backend.config import (
    CHUNK_SAMPLES,
    FEATURES_PER_CHUNK,
    HOP_SAMPLES,
    MEL_FRAMES_PER_FEATURE,
)
from backend.features import LogMel
from backend.training.align import AlignedClip, ClipKind
from backend.training.augment import change_speed, colour, rms
from backend.training.broad_speech import PEOPLE_PREFIX, SPEEDS, SpeechClip, SpeechStore
from backend.training.clips import is_for_development
from backend.training.features import stream_log_mel
from backend.training.streams import BatchShape, Sounds, excerpt, warped_and_masked
from backend.training.whisper import TEACHER_WIDTH, Teacher
from backend.training.word_pieces import WordPieces

FEATURE_SAMPLES = HOP_SAMPLES * MEL_FRAMES_PER_FEATURE
PEOPLE_OF_A_PIECE = 300
FOREIGN_SHARE = 0.15
"""How much of what people say in other languages is heard: there are hours of it."""
SHARES: Mapping[str, float] = {
    "english": 0.34,
    "piper": 0.14,
    "flite": 0.13,
    "espeak": 0.03,
    "person:order": 0.13,
    "person:words": 0.12,
    "person:wake word": 0.03,
    "person:digit": 0.04,
    "person:foreign": 0.04,
}
"""How often whose speech is drawn."""
NARROW_SHARE = 0.2
PLAIN_SHARE = 0.2
"""How much is heard as it was recorded."""
NOISY_SHARE = 0.7
GAIN_DB = (-22.0, 5.0)
SNR_DB = (3.0, 36.0)
GAP_FEATURES = (0, 18)
CLICK_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Lesson:
    """A clip, what is said in it, and what Whisper makes of it."""

    audio: np.ndarray
    """int16, [samples]"""
    pieces: tuple[int, ...] | None
    """Of the words; None where they are not known."""
    features: np.ndarray
    """float16, [features of 40 ms, 768]"""


def speech_of_people(clips: list[AlignedClip], seed: int) -> Iterator[SpeechClip]:
    """Recordings that may be trained on; what has most different words also at another speed."""
    rng = random.Random(seed)
    for clip in clips:
        if clip.held_out or is_for_development(clip):
            continue
        speeds = [1.0]
        match clip.kind:
            case ClipKind.ORDER | ClipKind.WORDS:
                speeds.append(rng.choice([speed for speed in SPEEDS if speed != 1.0]))
            case ClipKind.FOREIGN if rng.random() > FOREIGN_SHARE:
                continue
        for speed in speeds:
            audio = clip.audio
            if speed != 1.0:
                changed = change_speed(audio.astype(np.float32), speed)
                audio = np.clip(changed, -32767, 32767).astype(np.int16)
            yield SpeechClip(clip.text, f"person:{clip.kind}", audio)


def keep_speech_of_people(store: SpeechStore, clips: list[AlignedClip], seed: int) -> None:
    """Put what people say beside what synthetic voices do, once."""
    name = f"{PEOPLE_PREFIX}{{:03}}".format
    if store.path(name(0)).exists():
        return
    spoken = list(speech_of_people(clips, seed))
    random.Random(seed).shuffle(spoken)
    pieces = [
        spoken[start : start + PEOPLE_OF_A_PIECE]
        for start in range(0, len(spoken), PEOPLE_OF_A_PIECE)
    ]
    # The first comes last: it tells that all are there.
    for index, piece in reversed(list(enumerate(pieces))):
        store.write(name(index), piece)


def _taught(store: SpeechStore, name: str, teacher: Teacher) -> np.ndarray:
    """Whisper's features of all clips of a piece in a row, [features, 768], kept beside it."""
    path = store.path(name).with_suffix(".npy")
    if not path.exists():
        features = [
            teacher.features(torch.from_numpy(spoken.audio.astype(np.float32) / 32768))
            for spoken in store.read(name)
        ]
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, torch.cat(features).half().numpy())
        partial.replace(path)
    return np.load(path, mmap_mode="r")


class Lessons:
    """All lessons, by whose speech they are; pieces that are made meanwhile are added."""

    def __init__(self, store: SpeechStore, pieces: WordPieces, teacher: Teacher) -> None:
        self.store, self.pieces, self.teacher = store, pieces, teacher
        self.by_voice: dict[str, list[Lesson]] = defaultdict(list)
        self._added: set[str] = set()

    def add_new(self, most: int) -> None:
        """Take in up to `most` pieces of the store that are not among the lessons yet.

        Whisper hears a piece when it is first taken in: that takes a while for each.
        """
        new = [name for name in self.store.names() if name not in self._added]
        for name in tqdm(new[:most], desc="lessons"):
            features = _taught(self.store, name, self.teacher)
            first = 0
            for spoken in self.store.read(name):
                stop = first + spoken.audio.size // FEATURE_SAMPLES
                ids = tuple(self.pieces.encode(spoken.text)) if spoken.text else None
                voice = spoken.voice
                group = voice if voice.startswith("person") else voice.partition(":")[0]
                self.by_voice[group].append(Lesson(spoken.audio, ids, features[first:stop]))
                first = stop
            assert first == len(features), f"{name}: {first} features, {len(features)} taught"
            self._added.add(name)

    def seconds(self) -> dict[str, int]:
        """How much speech there is of whom."""
        return {
            voice: sum(lesson.audio.size for lesson in lessons) // 16_000
            for voice, lessons in sorted(self.by_voice.items())
        }

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of Whisper's features over a part of the lessons, [768] each."""
        sample = [lesson for lessons in self.by_voice.values() for lesson in lessons[:200]]
        features = torch.from_numpy(
            np.concatenate([lesson.features for lesson in sample]).astype(np.float32)
        )
        return features.mean(0), features.std(0)


@dataclass(frozen=True, slots=True)
class LessonBatch:
    """B streams of C chunks, N = 10 C features."""

    log_mel: Tensor
    """[B, C, 128, 40]"""
    features: Tensor
    """[B, N, 768], Whisper's; zero where nobody speaks"""
    taught: Tensor
    """bool, [B, N]: where somebody speaks"""
    transcripts: list[tuple[int, ...] | None]
    """Pieces of each whole stream; None where some are not known."""


class LessonMaker:
    """Draws streams at random."""

    def __init__(self, lessons: Lessons, sounds: Sounds, seed: int) -> None:
        self.lessons = lessons
        self.rng = random.Random(seed)
        self.log_mel = LogMel()
        shares, self.backgrounds = zip(*sounds.backgrounds(), strict=True)
        self.background_shares = list(shares)

    def batch(self, shape: BatchShape) -> LessonBatch:
        """New streams."""
        num_features = shape.num_chunks * FEATURES_PER_CHUNK
        audio = np.zeros((shape.num_streams, shape.num_chunks * CHUNK_SAMPLES), np.float32)
        features = np.zeros((shape.num_streams, num_features, TEACHER_WIDTH), np.float32)
        taught = np.zeros((shape.num_streams, num_features), bool)
        transcripts = [self._fill(*stream) for stream in zip(audio, features, taught, strict=True)]
        heard_before = [
            self.rng.uniform(-1.0, 2.5) if self.rng.random() < 0.3 else -math.inf
            for _ in range(shape.num_streams)
        ]
        whole = np.round(audio.clip(-1.0, 1.0) * 32767) / 32767  # recordings have 16 bits
        log_mel = stream_log_mel(self.log_mel, torch.from_numpy(whole), torch.tensor(heard_before))
        return LessonBatch(
            log_mel=warped_and_masked(log_mel, self.rng),
            features=torch.from_numpy(features),
            taught=torch.from_numpy(taught),
            transcripts=transcripts,
        )

    def _fill(
        self, audio: np.ndarray, features: np.ndarray, taught: np.ndarray
    ) -> tuple[int, ...] | None:
        """Put lessons into a stream one after the other; what is said in them together."""
        rng = self.rng
        transcript: list[int] | None = []
        position = rng.randint(*GAP_FEATURES)
        gain = 10 ** (rng.uniform(*GAIN_DB) / 20)
        while (lesson := self._that_fits(len(features) - position)) is not None:
            stop = position + len(lesson.features)
            start = position * FEATURE_SAMPLES
            heard = self._heard(lesson)
            audio[start : start + heard.size] += heard * gain
            features[position:stop] = lesson.features
            taught[position:stop] = True
            if transcript is not None:
                transcript = None if lesson.pieces is None else transcript + list(lesson.pieces)
            position = stop + rng.randint(*GAP_FEATURES)
        if rng.random() < NOISY_SHARE:
            heard = audio[np.abs(audio) > 1e-3 * gain]
            level = rms(heard) if heard.size else gain * 0.1
            level *= 10 ** (-rng.uniform(*SNR_DB) / 20)
            audio += self._background(audio.size) * level
        if rng.random() < CLICK_SHARE:
            for _ in range(rng.randint(1, 5)):
                at = rng.randrange(audio.size - 8)
                audio[at : at + rng.randint(1, 8)] += rng.uniform(-0.5, 0.5)
        return None if transcript is None else tuple(transcript)

    def _that_fits(self, num_features: int) -> Lesson | None:
        """A lesson that leaves room for the word head's last words; None if none was found."""
        voices = [voice for voice in SHARES if self.lessons.by_voice[voice]]
        shares = [SHARES[voice] for voice in voices]
        for _ in range(4):
            voice = self.rng.choices(voices, shares)[0]
            lesson = self.rng.choice(self.lessons.by_voice[voice])
            if len(lesson.features) + FEATURES_PER_CHUNK // 2 <= num_features:
                return lesson
        return None

    def _heard(self, lesson: Lesson) -> np.ndarray:
        audio = lesson.audio.astype(np.float32) / 32768
        if self.rng.random() < PLAIN_SHARE:
            return audio
        return colour(audio, self.rng, NARROW_SHARE)[: audio.size]

    def _background(self, num_samples: int) -> np.ndarray:
        """Noise at an RMS of about 1, [num_samples]."""
        group = self.rng.choices(self.backgrounds, self.background_shares)[0]
        return excerpt(self.rng.choice(group), num_samples, self.rng)
