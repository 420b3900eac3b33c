"""Distillation: a model learns to hear from Whisper, and to write what it hears; resumable."""

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS
from backend.errors import SettingsError
from backend.features import LogMel
from backend.model.audio_tower import AudioTower
from backend.model.word_head import BLANK
from backend.training.align import AlignedClip, ClipKind
from backend.training.broad_speech import SPEECH, SpeechClip, SpeechStore, keep_trial
from backend.training.clips import is_for_development, people_clips
from backend.training.domain import SYSTEM_PROMPT
from backend.training.features import stream_log_mel
from backend.training.lessons import (
    LessonBatch,
    LessonMaker,
    Lessons,
    keep_speech_of_people,
)
from backend.training.listening import edit_distance
from backend.training.model import ModelShape, TrainingModel, initialise
from backend.training.running_means import RunningMeans
from backend.training.sentences import load_sentences
from backend.training.split import Split
from backend.training.streams import BatchShape, load_sounds
from backend.training.tokens import Vocabulary, stream_sequence, train_vocabulary
from backend.training.trials import TRIALS
from backend.training.whisper import TEACHER_WIDTH, Teacher, begin_with, load_encoder
from backend.training.word_pieces import WordPieces, best_path, load_word_pieces

WHISPER_SHAPE = ModelShape(
    tower_width=384,
    tower_layers=4,
    tower_heads=6,
    decoder_width=256,
    decoder_layers=5,
    decoder_heads=4,
    decoder_ffn=704,
    word_layer=4,
)
"""The tower is Whisper tiny's; the decoder is what 25 MB in 16 bits leave."""


EARS = "distil.pt"
"""In the working folder: the run."""


@dataclass(frozen=True, slots=True)
class DistilConfig:
    """Everything that decides a run."""

    hours: float = 4.0
    """Of one core; the learning rate falls in the last part of them."""
    tower_rate: float = 3e-4
    rate: float = 1e-3
    warmup_steps: int = 100
    falling_share: float = 0.25
    clip_norm: float = 1.0
    weight_decay: float = 0.02
    feature_weight: float = 1.0
    word_weight: float = 0.4
    features_alone_seconds: float = 720.0
    """At first, in which words move their head alone: as long as it knows none, what they teach the
    layers below drowns the features."""
    longest_mean: float = 0.997
    """How much of the mean of the weights stays after a step, at most."""
    seed: int = 23
    shapes: tuple[BatchShape, ...] = (
        BatchShape(3, 12),
        BatchShape(2, 18),
        BatchShape(2, 18),
        BatchShape(1, 30),
    )
    pieces_between_trials: int = 2
    """Of speech, that are added whenever the run is scored, if there are more."""
    save_every_seconds: float = 60.0
    listen_every_seconds: float = 200.0


def rate_factor(step: int, progress: float, config: DistilConfig) -> float:
    """Warm-up by steps, a plateau, then a cosine to 2 % in the last share of the hours."""
    falling = max(0.0, (progress - 1 + config.falling_share) / config.falling_share)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))
    return min(1.0, (step + 1) / config.warmup_steps) * (0.02 + 0.98 * cosine)


class Student(nn.Module):
    """A model that learns to hear, with a head that only its teacher sees."""

    def __init__(self, model: TrainingModel, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model = model
        self.teacher_head = nn.Linear(model.shape.decoder_width, TEACHER_WIDTH)
        self.vocabulary = vocabulary

    def forward(self, log_mel: Tensor, prompt: str | None = None) -> Tensor:
        """What the word head sees: `[B, C, 128, 40]` to `[B, 10 C, width]`."""
        sequence = stream_sequence(self.vocabulary, prompt, {}, set(), log_mel.shape[1])
        return self.model.hear(
            log_mel, torch.tensor(sequence.ids), torch.tensor(sequence.audio_positions)
        )


class TrialSpeech:
    """Sentences that no training heard, in voices that it never heard, each a stream."""

    def __init__(self, name: str, speech: Sequence[SpeechClip], pieces: WordPieces) -> None:
        self.name, self.pieces = name, pieces
        log_mel = LogMel()
        self.streams: list[tuple[str, Tensor]] = []
        for clip in speech:
            num_chunks = math.ceil(clip.audio.size / CHUNK_SAMPLES) + 3
            audio = torch.zeros(1, num_chunks * CHUNK_SAMPLES)
            start = CHUNK_SAMPLES // 2
            audio[0, start : start + clip.audio.size] = torch.from_numpy(clip.audio) / 32768
            self.streams.append((clip.text, stream_log_mel(log_mel, audio)))

    @torch.no_grad()
    def heard(self, student: Student) -> list[tuple[str, str]]:
        """What was said and what was heard."""
        return [
            (text, self.pieces.text_of(best_path(student.model.word_head(student(log_mel))[0])))
            for text, log_mel in self.streams
        ]


def word_error(pairs: Sequence[tuple[str, str]]) -> float:
    """Wrong, missing and added words of all pairs of said and heard, per word said."""
    wrong = sum(edit_distance(said.split(), heard.split()) for said, heard in pairs)
    return wrong / sum(len(said.split()) for said, _ in pairs)


def development_orders(clips: Sequence[AlignedClip]) -> list[SpeechClip]:
    """People's orders that no training heard, and that are not held out either."""
    return [
        SpeechClip(clip.text, f"person:{ClipKind.ORDER}", clip.audio)
        for clip in clips
        if not clip.held_out and is_for_development(clip)
    ]


BLANK_SHARE = 0.7
"""Of all features, that complete no piece of a word."""
WHITENING_FLOOR = 0.02
"""Directions in which features vary less than this share of the most are not stretched further."""


@torch.no_grad()
def whiten(tower: AudioTower, log_mel: Tensor) -> None:
    """Let `proj` pass on where features differ most, instead of what is the same in all of them.

    What Whisper's last norm gives has a mean larger than its deviation, and a few directions that
    outweigh all others: behind a drawn projection, the decoder would hear little else.

    Args:
        tower: with Whisper's weights.
        log_mel: `[B, C, 128, 40]`, a sample.
    """
    heard: list[Tensor] = []
    hook = tower.encoder.ln_post.register_forward_hook(
        lambda _module, _inputs, output: heard.append(output.flatten(0, 1))
    )
    tower(log_mel.flatten(0, 1))
    hook.remove()
    (features,) = heard
    mean = features.mean(0)
    centred = features - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    strongest = slice(-tower.encoder.proj.out_features, None)
    stretch = (variances[strongest] + WHITENING_FLOOR * variances[-1]).rsqrt()
    weight = stretch[:, None] * directions[:, strongest].T
    tower.encoder.proj.weight.copy_(weight)
    tower.encoder.proj.bias.copy_(-weight @ mean)


@torch.no_grad()
def pass_on(model: TrainingModel) -> None:
    """Let the decoder's layers add nothing at first: what the tower hears arrives as it is."""
    for layer in model.decoder.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


@torch.no_grad()
def fit(linear: nn.Linear, inputs: Tensor, targets: Tensor) -> None:
    """The weights that come nearest to `targets` [N, out] from `inputs` [N, in], and stay small."""
    mean = inputs.mean(0)
    centred = inputs - mean
    ridge = 0.1 * len(inputs) * torch.eye(inputs.shape[1])
    weight = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ targets).T
    linear.weight.copy_(weight)
    linear.bias.copy_(targets.mean(0) - weight @ mean)


class Distiller:
    """Owns the student, its optimiser and the run's state on disk."""

    def __init__(
        self,
        config: DistilConfig,
        shape: ModelShape,
        vocabulary: Vocabulary,
        pieces: WordPieces,
        work: Path,
    ) -> None:
        self.config, self.pieces, self.work = config, pieces, work
        torch.manual_seed(config.seed)
        model = TrainingModel(shape, vocabulary.size, pieces.size)
        self.student = Student(model, vocabulary)
        self.mean, self.deviation = torch.zeros(TEACHER_WIDTH), torch.ones(TEACHER_WIDTH)
        self.average: list[Tensor] = []
        self.step = 0
        self.seconds = 0.0
        """Of one core."""
        self.audio_seconds = 0.0
        self.optimizer = self._optimizer()
        self.meter = RunningMeans()

    def _optimizer(self) -> torch.optim.AdamW:
        """Weight decay for matrices alone; Whisper's layers move more slowly than new ones."""
        tower = self.student.model.tower.encoder
        new = {id(parameter) for parameter in tower.proj.parameters()}
        whispers = {id(parameter) for parameter in tower.parameters()} - new
        groups = []
        for in_tower in (True, False):
            for is_matrix in (True, False):
                parameters = [
                    parameter
                    for parameter in self.student.parameters()
                    if (id(parameter) in whispers) == in_tower and (parameter.ndim > 1) == is_matrix
                ]
                rate = self.config.tower_rate if in_tower else self.config.rate
                decay = self.config.weight_decay if is_matrix else 0.0
                groups.append({"params": parameters, "weight_decay": decay, "peak_rate": rate})
        return torch.optim.AdamW(groups, lr=self.config.rate, betas=(0.9, 0.98))

    def begin(
        self, encoder: WhisperEncoder, batch: LessonBatch, mean: Tensor, deviation: Tensor
    ) -> None:
        """First weights: Whisper's in the tower, drawn ones elsewhere.

        Args:
            encoder: Whisper's, of the tower's width and depth.
            batch: a sample of what will be heard.
            mean: of Whisper's features, [768].
            deviation: the same.
        """
        model = self.student.model
        initialise(model, batch.log_mel)
        begin_with(model.tower, encoder)
        whiten(model.tower, batch.log_mel)
        pass_on(model)
        self.mean, self.deviation = mean, deviation.clamp_min(1e-3)
        with torch.no_grad():
            hidden = self.student(batch.log_mel)[batch.taught]
            fit(self.student.teacher_head, hidden, self._expected(batch))
            model.word_head.weight.zero_()
            model.word_head.bias.fill_(math.log((1 - BLANK_SHARE) / (self.pieces.size - 1)))
            model.word_head.bias[BLANK] = math.log(BLANK_SHARE)
        self.average = self._weights()

    # State on disk

    @property
    def state_path(self) -> Path:
        """Where the run is kept."""
        return self.work / EARS

    def save(self) -> None:
        """Write everything that is needed to go on."""
        partial = self.state_path.with_suffix(".partial")
        torch.save(
            {
                "shape": asdict(self.student.model.shape),
                "pieces": self.pieces.tokenizer.to_str(),
                "student": self.student.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "mean": self.mean,
                "deviation": self.deviation,
                "step": self.step,
                "seconds": self.seconds,
                "audio_seconds": self.audio_seconds,
            },
            partial,
        )
        partial.replace(self.state_path)

    def resume(self) -> bool:
        """Go on where the last save was; False where there is none.

        Raises:
            SettingsError: the save is of another model.
        """
        if not self.state_path.exists():
            return False
        state = torch.load(self.state_path, weights_only=True)
        if (
            state["shape"] != asdict(self.student.model.shape)
            or state["pieces"] != self.pieces.tokenizer.to_str()
        ):
            raise SettingsError(
                f"the run in {self.work} is of another model: choose another folder"
            )
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.mean, self.deviation = (
            state[name] for name in ("average", "mean", "deviation")
        )
        self.step, self.seconds, self.audio_seconds = (
            state[name] for name in ("step", "seconds", "audio_seconds")
        )
        return True

    def _weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.student.parameters()]

    # Learning

    def losses(self, batch: LessonBatch, prompt: str | None) -> tuple[Tensor, Tensor]:
        """How far the student is from Whisper's features, and from what was said."""
        hidden = self.student(batch.log_mel, prompt)
        heard = self.student.teacher_head(hidden[batch.taught])
        features = F.mse_loss(heard, self._expected(batch))
        known = [row for row, pieces in enumerate(batch.transcripts) if pieces]
        if not known:
            return features, hidden.sum() * 0.0
        transcripts = [batch.transcripts[row] or () for row in known]
        read = hidden[known]
        if self.seconds < self.config.features_alone_seconds:
            read = read.detach()
        words = F.ctc_loss(
            self.student.model.word_head(read).transpose(0, 1).log_softmax(-1),
            torch.tensor([piece for pieces in transcripts for piece in pieces]),
            torch.full((len(known),), hidden.shape[1]),
            torch.tensor([len(pieces) for pieces in transcripts]),
            zero_infinity=True,
        )
        return features, words

    def _expected(self, batch: LessonBatch) -> Tensor:
        """Whisper's features where somebody speaks, each of mean 0 and deviation 1."""
        return (batch.features[batch.taught] - self.mean) / self.deviation

    def learn(self, batch: LessonBatch, prompt: str | None) -> None:
        """One step."""
        progress = self.seconds / (3600 * self.config.hours)
        factor = rate_factor(self.step, progress, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * factor
        features, words = self.losses(batch, prompt)
        loss = self.config.feature_weight * features + self.config.word_weight * words
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self.audio_seconds += batch.log_mel.shape[:2].numel() * CHUNK_SECONDS
        kept = min(self.config.longest_mean, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.student.parameters()), 1 - kept)
        self.meter.add(features=features.item(), words=words.item())

    def run(self, maker: LessonMaker, trials: Sequence[TrialSpeech]) -> None:
        """Learn until the hours are over.

        The clock is that of the processor: it stands still while the process is stopped, and
        while others have its core.
        """
        total = 3600 * self.config.hours
        last_save = last_listen = self.seconds
        rng = maker.rng
        with (self.work / "distil.jsonl").open("a", encoding="utf-8") as log:
            while self.seconds < total:
                began = time.process_time()
                batch = maker.batch(rng.choice(self.config.shapes))
                made = time.process_time() - began
                self.learn(batch, rng.choice((None, SYSTEM_PROMPT)))
                passed = time.process_time() - began
                rate = batch.log_mel.shape[:2].numel() * CHUNK_SECONDS / passed
                self.meter.add(made=made / passed, rate=rate)
                self.seconds += passed
                if self.step % 50 == 0:
                    self._report(log, self.meter.means())
                if self.seconds - last_listen > self.config.listen_every_seconds:
                    self._report(log, self.scores(trials))
                    last_listen = self.seconds
                    maker.lessons.add_new(self.config.pieces_between_trials)
                if self.seconds - last_save > self.config.save_every_seconds:
                    self.save()
                    last_save = self.seconds
            self._report(log, self.scores(trials))
        self.save()

    def _report(self, log: TextIO, figures: dict[str, float]) -> None:
        entry = {
            "step": self.step,
            "core_minutes": round(self.seconds / 60, 2),
            "audio_minutes": round(self.audio_seconds / 60, 1),
            **{name: round(value, 4) for name, value in figures.items()},
        }
        log.write(json.dumps(entry) + "\n")
        log.flush()
        tqdm.write(json.dumps(entry))

    @torch.no_grad()
    def averaged(self) -> Student:
        """The student with the mean of the weights."""
        student = copy.deepcopy(self.student)
        torch._foreach_copy_(list[Tensor](student.parameters()), self.average)
        return student

    def heard(self, trial: TrialSpeech) -> list[tuple[str, str]]:
        """What was said in a trial, and what the mean of the weights hears of it."""
        return trial.heard(self.averaged())

    def scores(self, trials: Sequence[TrialSpeech]) -> dict[str, float]:
        """Word error on each trial."""
        scores = {}
        for trial in trials:
            pairs = self.heard(trial)
            scores[f"{trial.name} word error"] = word_error(pairs)
            for said, heard in pairs[:3]:
                tqdm.write(f"  {said} | {heard}")
        return scores


PIECES = "pieces.json"
"""In the working folder: the word pieces."""
PIECES_AT_FIRST = 6
"""Of speech, without which a run does not begin."""


def distil(data: Path, work: Path, config: DistilConfig) -> Distiller:
    """A whole run from raw recordings; goes on where an earlier one stopped.

    Args:
        data: the recordings, and the texts and voices of `broad_speech.py`.
        work: a folder for what is made: speech, what Whisper makes of it, state, progress.
        config: length, rates and shapes of the run.

    Raises:
        SettingsError: something that is needed is missing.
    """
    work.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder()
    sentences = load_sentences(data, Split.TRAINING)
    pieces = load_word_pieces(work / PIECES, sentences.texts())
    trials = SpeechStore(work / TRIALS)
    keep_trial(trials, data, Split.DEVELOPMENT, config.seed)
    clips = people_clips(data, work, workers=1)
    store = SpeechStore(work / SPEECH)
    keep_speech_of_people(store, clips, config.seed)
    lessons = Lessons(store, pieces, Teacher(encoder))
    lessons.add_new(max(PIECES_AT_FIRST, store.num_taught()))
    distiller = Distiller(config, WHISPER_SHAPE, train_vocabulary(config.seed), pieces, work)
    resumed = distiller.resume()
    seed = config.seed + distiller.step
    maker = LessonMaker(lessons, load_sounds(data, clips, config.seed), seed)
    if not resumed:
        sample = maker.batch(BatchShape(24, 12))
        distiller.begin(encoder, sample, *lessons.statistics())
    distiller.run(
        maker,
        [
            TrialSpeech("development", trials.read(Split.DEVELOPMENT), pieces),
            TrialSpeech("orders", development_orders(clips), pieces),
        ],
    )
    return distiller


def listen(data: Path, work: Path, split: Split) -> list[tuple[str, str]]:
    """What a run so far hears of sentences and voices that no training has: said, and heard.

    Args:
        data: the texts and voices of `broad_speech.py`.
        work: where the run is kept.
        split: the side that they are on; what is held out is to be reported and not to choose by.

    Raises:
        SettingsError: there is no run in `work`, or something that is needed is missing.
    """
    distiller = _resumed(work)
    trials = SpeechStore(work / TRIALS)
    keep_trial(trials, data, split, distiller.config.seed)
    return distiller.heard(TrialSpeech(split, trials.read(split), distiller.pieces))


def load_ears(work: Path) -> tuple[TrainingModel, Vocabulary, WordPieces]:
    """What a run so far can hear with, the vocabulary of its prompts, and its word pieces.

    Raises:
        SettingsError: there is no run in `work`.
    """
    distiller = _resumed(work)
    return distiller.averaged().model, distiller.student.vocabulary, distiller.pieces


def _resumed(work: Path) -> Distiller:
    config = DistilConfig()
    vocabulary = train_vocabulary(config.seed)
    if (work / PIECES).exists():
        pieces = load_word_pieces(work / PIECES, [])
        distiller = Distiller(config, WHISPER_SHAPE, vocabulary, pieces, work)
        if distiller.resume():
            return distiller
    raise SettingsError(f"there is no run in {work}: make distil begins one")
