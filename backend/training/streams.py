"""Random streams of utterances, silence and noise, as batches with everything there is to learn."""

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from backend.config import (
    CHUNK_SAMPLES,
    FEATURES_PER_CHUNK,
    MEL_FRAMES_PER_CHUNK,
    MEL_FRAMES_PER_FEATURE,
    NUM_MEL_BINS,
    RELEASED_SYSTEM_PROMPT,
)
from backend.features import LogMel
from backend.training.align import AlignedClip, ClipKind
from backend.training.augment import random_noise, rms
from backend.training.broad_speech import SpeechClip
from backend.training.clips import is_for_development
from backend.training.data import (
    SAMPLE_RATE,
    Kind,
    is_held_out,
    load_audio,
    read_manifests,
)
from backend.training.domain import SOUND_REPLIES, SYSTEM_PROMPT, SpokenReply
from backend.training.everyday_sounds import load_everyday_sounds
from backend.training.features import stream_log_mel
from backend.training.split import Split
from backend.training.tokens import IGNORED, TokenSequence, Vocabulary, stream_sequence
from backend.training.utterances import (
    BUILT_IN_RECIPES,
    FRAME_SAMPLES,
    OWN_RECIPES,
    SPEEDS,
    OwnTurn,
    Spoken,
    Utterances,
    mixed,
    spoken_differently,
    tightly,
)
from backend.training.voices import load_word_lists
from backend.training.word_pieces import WordPieces

REPLY_DELAY_FRAMES = 30
"""A reply begins with the first chunk that ends at least this long after the last word."""
UNDECIDED_FRAMES = 8
FIRST_POSITION = 120
"""The latest frame at which the first utterance of a stream begins."""
KITCHEN_TRAINING_SHARE = 0.8
NOISE_SECONDS = 16
NUM_NOISES = 80
NUM_BABBLES = 16


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a stream in which everything that is said is known."""

    start: int
    """Its first feature."""
    stop: int
    """The feature after its last."""
    pieces: tuple[int, ...]
    """Of the words that are said in it; none where nobody speaks."""


@dataclass(slots=True)
class Stream:
    """A stream and its labels; chunks of 0.4 s, features of 40 ms, frames of 10 ms."""

    audio: np.ndarray
    """float32, [chunks * 6400]"""
    phones: np.ndarray
    """int64, [features]: SOUND_CLASSES, 0 silence, IGNORED"""
    replies: dict[int, SpokenReply] = field(default_factory=dict)
    undecided: set[int] = field(default_factory=set)
    said: list[tuple[int, int, str | None]] = field(default_factory=list)
    """First feature, feature after the last, the words between; None where they are not known."""

    @classmethod
    def silent(cls, num_chunks: int) -> "Stream":
        """Nothing, for `num_chunks`."""
        return cls(
            np.zeros(num_chunks * CHUNK_SAMPLES, np.float32),
            np.zeros(num_chunks * FEATURES_PER_CHUNK, np.int64),
        )

    @property
    def num_chunks(self) -> int:
        """Length in chunks."""
        return self.audio.size // CHUNK_SAMPLES

    def stretches(self, pieces: WordPieces) -> list[Stretch]:
        """What is between the utterances whose words are not known."""
        found: list[Stretch] = []
        start, known = 0, list[int]()
        for first, after, words in self.said:
            if words is None:
                found.append(Stretch(start, first, tuple(known)))
                start, known = after, []
            else:
                known += pieces.encode(words)
        found.append(Stretch(start, self.phones.size, tuple(known)))
        return [stretch for stretch in found if stretch.stop > stretch.start]


def reply_chunk(end_frame: float) -> int:
    """The chunk after which an utterance is answered that ends at `end_frame`."""
    return math.ceil((end_frame + REPLY_DELAY_FRAMES) / MEL_FRAMES_PER_CHUNK) - 1


def place(stream: Stream, spoken: Spoken, start: int) -> None:
    """Add an utterance to a stream from frame `start` on, with its labels."""
    first = start * FRAME_SAMPLES
    stream.audio[first : first + spoken.audio.size] += spoken.audio
    num_features = stream.phones.size
    stop = min(num_features, -(-(start + spoken.audio.size // FRAME_SAMPLES) // 4))
    inside = slice(start // MEL_FRAMES_PER_FEATURE, stop)
    if spoken.phones is None:
        stream.phones[inside] = IGNORED
    else:
        # A feature's middle frame names its phone.
        middles = np.arange(num_features) * MEL_FRAMES_PER_FEATURE + 2 - start
        known = (middles >= 0) & (middles < len(spoken.phones))
        stream.phones[known] = spoken.phones[middles[known]]
    stream.said.append((inside.start, stop, spoken.said))
    end_frame = start + spoken.end
    if spoken.reply is not None:
        chunk = reply_chunk(end_frame)
        assert chunk < stream.num_chunks, "an utterance needs room for its reply"
        stream.replies[chunk] = spoken.reply
        doubtful = start + spoken.doubt[0] if spoken.doubt else end_frame + UNDECIDED_FRAMES
        stream.undecided.update(range(math.ceil(doubtful / MEL_FRAMES_PER_CHUNK) - 1, chunk))


@dataclass(frozen=True, slots=True)
class Sounds:
    """What is heard beside speech: float32 at an RMS of 1, [samples] each."""

    events: dict[str, list[np.ndarray]]
    """Recordings by their label, at a peak of 0.5."""
    noises: list[np.ndarray]
    kitchen: list[np.ndarray]
    babbles: list[np.ndarray]

    def backgrounds(self) -> list[tuple[float, list[np.ndarray]]]:
        """What there is to be heard behind speech, and how often."""
        unanswered = [
            sound / rms(sound)
            for label, recordings in self.events.items()
            if SOUND_REPLIES.get(label) is None
            for sound in recordings
        ]
        shares = (0.37, 0.28, 0.13, 0.22)
        groups = (self.noises, self.kitchen, self.babbles, unanswered)
        return [(share, group) for share, group in zip(shares, groups, strict=True) if group]


def made_sounds(seed: int) -> Sounds:
    """Synthetic noises alone."""
    rng = random.Random(seed)
    length = NOISE_SECONDS * SAMPLE_RATE
    return Sounds({}, [random_noise(length, rng) for _ in range(NUM_NOISES)], [], [])


def load_sounds(data: Path, clips: list[AlignedClip], seed: int) -> Sounds:
    """What training hears of the sounds and the kitchen; synthetic noises and babble."""
    rng = random.Random(seed)
    events: dict[str, list[np.ndarray]] = defaultdict(list)
    events.update(load_everyday_sounds(data, Split.TRAINING))
    for recording in read_manifests(data):
        if recording.kind is Kind.SOUND and not is_held_out(recording):
            audio = load_audio(data / recording.file)
            events[recording.label].append(audio * (0.5 / max(1e-6, np.abs(audio).max())))
    kitchen = load_audio(data / "noise" / "kitchen.ogg")
    kitchen = kitchen[: int(kitchen.size * KITCHEN_TRAINING_SHARE)]
    length = NOISE_SECONDS * SAMPLE_RATE
    voices = [clip for clip in clips if clip.kind is not ClipKind.DIGIT]
    babbles = []
    for _ in range(NUM_BABBLES):
        babble = np.zeros(length, np.float32)
        for _ in range(rng.randint(25, 45)):
            audio = rng.choice(voices).audio[:length].astype(np.float32) / 32767
            start = rng.randint(0, length - audio.size)
            babble[start : start + audio.size] += audio * rng.uniform(0.3, 1.0)
        babbles.append(babble / rms(babble))
    noises = [random_noise(length, rng) for _ in range(NUM_NOISES)]
    return Sounds(events, noises, [kitchen / rms(kitchen)], babbles)


@dataclass(frozen=True, slots=True)
class Corpus:
    """What streams are made of."""

    clips: list[AlignedClip]
    """Held-out ones too, which no stream is made of."""
    sounds: Sounds
    conversations: list[list[OwnTurn]]
    """Somebody's own."""
    system_prompt: str = SYSTEM_PROMPT
    speech: Sequence[SpeechClip] = ()
    """What synthetic voices say."""
    shares: Mapping[str, float] | None = None
    """How often what is drawn; None: as suits what there is."""

    @property
    def recipes(self) -> Mapping[str, float]:
        """How often what is drawn: half and half where there are both kinds of recordings."""
        if self.shares is not None:
            return self.shares
        if not self.conversations:
            return BUILT_IN_RECIPES
        return mixed(BUILT_IN_RECIPES, {"own": 1.0}) if self.clips else OWN_RECIPES

    @property
    def has_phones(self) -> bool:
        """Whether there is any speech whose phones are known."""
        turns = (turn for conversation in self.conversations for turn in conversation)
        return bool(self.clips) or any(turn.clip is not None for turn in turns)

    @property
    def num_chunks(self) -> int:
        """Chunks that a stream needs to hold the longest of somebody's own turns."""
        turns = [turn for conversation in self.conversations for turn in conversation]
        frames = max((turn.audio.size / FRAME_SAMPLES for turn in turns), default=0.0)
        before, after = FIRST_POSITION, MEL_FRAMES_PER_CHUNK + REPLY_DELAY_FRAMES
        return math.ceil((before + frames / SPEEDS[0] + after) / MEL_FRAMES_PER_CHUNK) + 1


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """Streams of equal length; B streams, C chunks, L positions."""

    log_mel: Tensor
    """[B, C, 128, 40]"""
    ids: Tensor
    """[B, L]"""
    labels: Tensor
    """[B, L]: targets for the token at the same place"""
    audio_positions: Tensor
    """[B, 10 C]"""
    phones: Tensor
    """[B, 10 C]"""
    transcripts: list[tuple[int, Stretch]]
    """Which stream, and a part of it whose words are known."""


class StreamMaker:
    """Draws streams and turns them into batches."""

    def __init__(
        self, corpus: Corpus, vocabulary: Vocabulary, pieces: WordPieces, seed: int
    ) -> None:
        self.rng = random.Random(seed)
        self.vocabulary, self.pieces = vocabulary, pieces
        self.system_prompt = corpus.system_prompt
        training = [
            clip for clip in corpus.clips if not (clip.held_out or is_for_development(clip))
        ]
        self.utterances = Utterances(
            training,
            corpus.sounds.events,
            self.rng,
            corpus.recipes,
            corpus.conversations,
            corpus.speech,
        )
        shares, groups = zip(*corpus.sounds.backgrounds(), strict=True)
        self.background_shares: tuple[float, ...] = shares
        self.backgrounds: tuple[list[np.ndarray], ...] = groups
        self.log_mel = LogMel()
        self.sentences = load_word_lists().sentences

    def stream(self, num_chunks: int) -> Stream:
        """A random stream of `num_chunks`."""
        rng = self.rng
        stream = Stream.silent(num_chunks)
        num_frames = num_chunks * MEL_FRAMES_PER_CHUNK
        files = rng.random() < 0.35  # digital silence around the utterances, noise inside
        position = rng.randint(0, 4) if rng.random() < 0.3 else rng.randint(5, FIRST_POSITION)
        level = 10 ** (rng.uniform(-30.0, 6.0) / 20)
        attempts = 0
        waiting: list[Spoken] = []
        while attempts < 8 and position < num_frames - MEL_FRAMES_PER_CHUNK:
            waiting = waiting or self.utterances.draw()
            spoken = spoken_differently(waiting.pop(0), rng)
            if rng.random() < 0.5:
                spoken = tightly(spoken, rng)
            frames = spoken.audio.size // FRAME_SAMPLES + 1
            room = MEL_FRAMES_PER_CHUNK + REPLY_DELAY_FRAMES if spoken.reply else 0
            if position + max(frames, spoken.end + room) > num_frames:
                attempts += 1
                waiting = []
                continue
            gain = level * 10 ** (rng.uniform(-5.0, 5.0) / 20)
            audio = spoken.audio * gain
            if files and rng.random() < 0.7:
                audio = audio + self._background(audio.size) * self._noise_level(audio, 8.0, 45.0)
            place(stream, replace(spoken, audio=audio.astype(np.float32)), position)
            gap = rng.randint(45, 90) if rng.random() < 0.65 else rng.randint(80, 250)
            position += frames + gap
        if not files and rng.random() < 0.85:
            heard = stream.audio[np.abs(stream.audio) > 1e-3 * level]
            if heard.size > SAMPLE_RATE // 10:
                noise_level = self._noise_level(heard, 2.0, 36.0)
            else:
                noise_level = 10 ** (rng.uniform(-75.0, -20.0) / 20)
            stream.audio += self._background(stream.audio.size) * noise_level
        return stream

    def _noise_level(self, speech: np.ndarray, lowest_db: float, highest_db: float) -> float:
        return rms(speech) * 10 ** (-self.rng.uniform(lowest_db, highest_db) / 20)

    def _background(self, num_samples: int) -> np.ndarray:
        """Noise at an RMS of about 1, [num_samples]."""
        group = self.rng.choices(self.backgrounds, self.background_shares)[0]
        return excerpt(self.rng.choice(group), num_samples, self.rng)

    def _prompt(self) -> str:
        """The system prompt of a batch."""
        draw = self.rng.random()
        if draw < 0.85:
            return self.system_prompt
        if draw < 0.88:
            return RELEASED_SYSTEM_PROMPT
        return self.rng.choice(self.sentences).replace("{", "").replace("}", "").capitalize() + "."

    def batch(self, num_streams: int, num_chunks: int) -> StreamBatch:
        """A batch of new streams."""
        rng = self.rng
        streams = [self.stream(num_chunks) for _ in range(num_streams)]
        sequences: list[TokenSequence] = []
        maxima = []
        common = self._prompt()  # a long one lengthens the whole batch
        for stream in streams:
            prompt = None if rng.random() < 0.3 else common
            sequences.append(
                stream_sequence(
                    self.vocabulary, prompt, stream.replies, stream.undecided, num_chunks
                )
            )
            # Deep inside a session something loud may have been heard before.
            heard_before = prompt is None and rng.random() < 0.5
            maxima.append(rng.uniform(-1.0, 2.5) if heard_before else -math.inf)
        audio = np.stack([stream.audio for stream in streams]).clip(-1.0, 1.0)
        audio = np.round(audio * 32767) / 32767  # recordings have 16 bits
        log_mel = stream_log_mel(
            self.log_mel, torch.from_numpy(audio.astype(np.float32)), torch.tensor(maxima)
        )
        length = max(len(sequence.ids) for sequence in sequences)
        ids = torch.full((num_streams, length), self.vocabulary.control.pad)
        labels = torch.full((num_streams, length), IGNORED)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
            labels[row, : len(sequence.labels)] = torch.tensor(sequence.labels)
        return StreamBatch(
            log_mel=warped_and_masked(log_mel, self.rng),
            ids=ids,
            labels=labels,
            audio_positions=torch.tensor([sequence.audio_positions for sequence in sequences]),
            phones=torch.from_numpy(np.stack([stream.phones for stream in streams])),
            transcripts=[
                (row, stretch)
                for row, stream in enumerate(streams)
                for stretch in stream.stretches(self.pieces)
            ],
        )


def warped_and_masked(log_mel: Tensor, rng: random.Random) -> Tensor:
    """`log_mel` [B, C, 128, 40] warped along frequency as by another vocal tract, and masked.

    It is changed in place, stream by stream.
    """
    for stream in log_mel:
        if rng.random() < 0.6:
            warped = torch.arange(NUM_MEL_BINS) * rng.uniform(0.89, 1.12)
            warped = warped.clamp(0, NUM_MEL_BINS - 1)
            below = warped.floor().long()
            above = (below + 1).clamp_max(NUM_MEL_BINS - 1)
            share = (warped - below)[:, None]
            stream.copy_(stream[:, below] * (1 - share) + stream[:, above] * share)
        if rng.random() < 0.4:
            for _ in range(2):
                width = rng.randint(0, 12)
                first = rng.randint(0, NUM_MEL_BINS - width)
                stream[:, first : first + width] = stream.mean()
        if rng.random() < 0.3:
            for _ in range(max(1, len(stream) // 8)):
                chunk, width = rng.randrange(len(stream)), rng.randint(0, 8)
                first = rng.randint(0, MEL_FRAMES_PER_CHUNK - width)
                stream[chunk, :, first : first + width] = stream.amin()
    return log_mel


def excerpt(noise: np.ndarray, num_samples: int, rng: random.Random) -> np.ndarray:
    """A random part of `noise` [samples], repeated where it is too short: [num_samples]."""
    start = rng.randrange(noise.size)
    return np.resize(np.roll(noise, -start)[: min(noise.size, num_samples)], num_samples)


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How many streams of how many chunks."""

    num_streams: int
    num_chunks: int


class BatchStream(IterableDataset[StreamBatch]):
    """An endless supply of batches of one shape, made in a worker process."""

    def __init__(
        self,
        corpus: Corpus,
        vocabulary: Vocabulary,
        pieces: WordPieces,
        shapes: list[BatchShape],
        seed: int,
    ) -> None:
        self.corpus, self.vocabulary, self.pieces = corpus, vocabulary, pieces
        self.shapes, self.seed = shapes, seed

    def __iter__(self) -> Iterator[StreamBatch]:
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        seed = self.seed * 64 + (worker.id if worker else 0)
        maker = StreamMaker(self.corpus, self.vocabulary, self.pieces, seed)
        while True:
            shape = maker.rng.choice(self.shapes)
            yield maker.batch(shape.num_streams, shape.num_chunks)
