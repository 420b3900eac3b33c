"""The training run: the tower alone, then everything jointly; resumable at any moment."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from backend.training.align import Clip
from backend.training.clips import prepare_clips
from backend.training.listening import HeldOutOrders
from backend.training.model import ModelShape, Outputs, TrainingModel, initialise
from backend.training.streams import (
    Batch,
    BatchShape,
    BatchStream,
    Sounds,
    StreamMaker,
    WordIds,
    load_sounds,
)
from backend.training.tokens import (
    IGNORED,
    Vocabulary,
    content_tokens,
    train_vocabulary,
    vocabulary_of,
)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Everything that decides a run."""

    hours: float = 1.5
    """Length of the learning-rate schedule; longer is better."""
    tower_share: float = 0.14
    """Part of the hours in which the tower learns phones alone."""
    short_share: float = 0.45
    """Part of the joint training with short streams."""
    tower_learning_rate: float = 3e-3
    learning_rate: float = 2e-3
    tower_factor: float = 0.5
    """The tower's learning rate in joint training, relative to the decoder's."""
    warmup_steps: int = 80
    clip_norm: float = 2.0
    weight_decay: float = 0.02
    content_weight: float = 3.0
    """How much a reply's digit or slot word counts, relative to its other tokens."""
    seed: int = 11
    workers: int = 1
    save_every_seconds: float = 120.0
    listen_every_seconds: float = 300.0
    tower_shapes: tuple[BatchShape, ...] = (BatchShape(8, 18),)
    short_shapes: tuple[BatchShape, ...] = (BatchShape(8, 18), BatchShape(8, 18), BatchShape(6, 26))
    long_shapes: tuple[BatchShape, ...] = (
        BatchShape(6, 26),
        BatchShape(6, 26),
        BatchShape(5, 32),
        BatchShape(3, 50),
    )


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much each part of the joint loss counts."""

    reply: float
    word: float
    ctc: float
    phone: float


def loss_weights(progress: float) -> LossWeights:
    """Hearing first, writing later; `progress` of the joint training from 0 to 1."""
    return LossWeights(
        reply=0.3 if progress < 0.15 else 1.0,
        word=1.0 if progress < 0.6 else 0.5,
        ctc=0.15,
        phone=0.3 if progress < 0.4 else 0.12,
    )


def learning_rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    """Warm-up by steps, a plateau, then a cosine to 2 % by progress."""
    cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, (progress - 0.1) / 0.9)))
    return min(1.0, (step + 1) / warmup_steps) * (0.02 + 0.98 * cosine)


@dataclass(slots=True)
class Meter:
    """Running sums of what a step measured."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Count one step's values; NaN means there was nothing to measure."""
        for name, value in values.items():
            if not math.isnan(value):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums.clear()
        self.counts.clear()
        return means


def phone_loss(logits: Tensor, phones: Tensor) -> Tensor:
    """Cross-entropy per feature of `[B, N, phones]` against `[B, N]`."""
    return F.cross_entropy(logits.flatten(0, 1), phones.flatten(), ignore_index=IGNORED)


def phone_accuracy(logits: Tensor, phones: Tensor) -> float:
    """Share of spoken features whose phone is right."""
    spoken = phones > 0
    return (logits.argmax(-1)[spoken] == phones[spoken]).float().mean().item()


def transcript_loss(words: Tensor, batch: Batch) -> Tensor:
    """CTC over each utterance's features, `[B, N, words]`."""
    spoken = [transcript for transcript in batch.transcripts if transcript[3]]
    if not spoken:
        return words.new_zeros(())
    longest = max(stop - start for _, start, stop, _ in spoken)
    pieces = [
        F.pad(words[row, start:stop], (0, 0, 0, longest - (stop - start)))
        for row, start, stop, _ in spoken
    ]
    return F.ctc_loss(
        torch.stack(pieces, dim=1).log_softmax(-1),
        torch.tensor([word for *_, ids in spoken for word in ids]),
        torch.tensor([stop - start for _, start, stop, _ in spoken]),
        torch.tensor([len(ids) for *_, ids in spoken]),
        zero_infinity=True,
    )


class Trainer:
    """Owns the model, its optimiser and the run's state on disk."""

    def __init__(
        self, config: TrainingConfig, shape: ModelShape, vocabulary: Vocabulary, work: Path
    ) -> None:
        self.config, self.vocabulary, self.work = config, vocabulary, work
        self.word_ids = WordIds()
        torch.manual_seed(config.seed)
        self.model = TrainingModel(shape, vocabulary.size, self.word_ids.size)
        self.stage = "tower"
        self.step = 0
        self.seconds = 0.0
        self.audio_seconds = 0.0
        self.optimizer = self._optimizer()
        self.token_weights = torch.ones(vocabulary.size)
        self.token_weights[vocabulary.control.text_begin] = 2.0
        # Most of a reply is the same in every reply.
        self.token_weights[content_tokens(vocabulary)] = config.content_weight
        self.word_weights = torch.ones(self.word_ids.size)
        self.word_weights[0] = 0.25
        self.meter = Meter()

    def _optimizer(self) -> torch.optim.AdamW:
        """Weight decay for matrices alone; the tower learns more slowly in joint training."""
        joint = self.stage == "joint"
        rate = self.config.learning_rate if joint else self.config.tower_learning_rate
        modules = [self.model] if joint else [self.model.tower, self.model.tower_phone_head]
        tower = {id(parameter) for parameter in self.model.tower.parameters()}
        groups = []
        for is_matrix in (True, False):
            for in_tower in (True, False):
                parameters = [
                    parameter
                    for module in modules
                    for parameter in module.parameters()
                    if (parameter.ndim > 1) == is_matrix and (id(parameter) in tower) == in_tower
                ]
                if parameters:
                    slowed = self.config.tower_factor if joint and in_tower else 1.0
                    groups.append(
                        {
                            "params": parameters,
                            "weight_decay": self.config.weight_decay if is_matrix else 0.0,
                            "peak_rate": rate * slowed,
                        }
                    )
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))

    # State on disk

    @property
    def state_path(self) -> Path:
        """Where the run is kept."""
        return self.work / "state.pt"

    def save(self) -> None:
        """Write everything that is needed to go on."""
        partial = self.state_path.with_suffix(".partial")
        torch.save(
            {
                "shape": asdict(self.model.shape),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "stage": self.stage,
                "step": self.step,
                "seconds": self.seconds,
                "audio_seconds": self.audio_seconds,
            },
            partial,
        )
        partial.replace(self.state_path)

    def resume(self) -> bool:
        """Go on where the last save was; False where there is none."""
        if not self.state_path.exists():
            return False
        state = torch.load(self.state_path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.stage = state["stage"]
        self.optimizer = self._optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.audio_seconds = state["audio_seconds"]
        return True

    # One step

    def tower_step(self, batch: Batch) -> None:
        """The tower learns to name phones."""
        logits = self.model.phones(batch.log_mel)
        loss = phone_loss(logits, batch.phones)
        self._descend(loss)
        self.meter.add(loss=loss.item(), phones=phone_accuracy(logits, batch.phones))

    def joint_step(self, batch: Batch, progress: float) -> None:
        """Everything learns everything."""
        outputs = self.model(batch.log_mel, batch.ids, batch.audio_positions)
        weights = loss_weights(progress)
        reply = self._reply_loss(outputs, batch)
        word = F.cross_entropy(
            outputs.words.flatten(0, 1),
            batch.words.flatten(),
            weight=self.word_weights,
            ignore_index=IGNORED,
        )
        ctc = transcript_loss(outputs.words, batch)
        phone = phone_loss(outputs.tower_phones, batch.phones) + phone_loss(
            outputs.decoder_phones, batch.phones
        )
        loss = (
            weights.reply * reply + weights.word * word + weights.ctc * ctc + weights.phone * phone
        )
        self._descend(loss)
        named = batch.words > 0
        self.meter.add(
            reply=reply.item(),
            word=word.item(),
            ctc=ctc.item(),
            words=(outputs.words.argmax(-1)[named] == batch.words[named]).float().mean().item(),
            phones=phone_accuracy(outputs.tower_phones, batch.phones),
        )

    def _reply_loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross-entropy of decisions and reply tokens."""
        learnt = batch.labels[:, 1:] != IGNORED
        targets = batch.labels[:, 1:][learnt]
        logits = self.model.decoder.lm_head(outputs.hidden[:, :-1][learnt])
        with torch.no_grad():
            control = self.vocabulary.control
            chosen = logits.argmax(-1)
            opens = targets == control.text_begin
            silent = targets == control.keep_silence
            text = ~(opens | silent)
            self.meter.add(
                opened=(chosen[opens] == targets[opens]).float().mean().item(),
                disturbed=(chosen[silent] != targets[silent]).float().mean().item(),
                text=(chosen[text] == targets[text]).float().mean().item(),
            )
        return F.cross_entropy(logits, targets, weight=self.token_weights)

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()

    # Stages

    def run_stage(
        self,
        stage: str,
        start: float,
        stop: float,
        end: float,
        batches: Iterator[Batch],
        orders: HeldOutOrders,
    ) -> None:
        """Train until `stop` seconds of the run; the learning rate falls from `start` to `end`."""
        last_save = last_listen = self.seconds
        log = (self.work / "progress.jsonl").open("a", encoding="utf-8")
        bar = tqdm(total=round(stop - self.seconds), desc=stage, unit="s")
        with log, bar:
            while self.seconds < stop:
                began = time.monotonic()
                progress = (self.seconds - start) / (end - start)
                factor = learning_rate_factor(self.step, progress, self.config.warmup_steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = group["peak_rate"] * factor
                batch = next(batches)
                waited = time.monotonic() - began
                if stage == "tower":
                    self.tower_step(batch)
                else:
                    self.joint_step(batch, progress)
                self.step += 1
                self.audio_seconds += batch.log_mel.shape[0] * batch.log_mel.shape[1] * 0.4
                passed = time.monotonic() - began
                self.meter.add(waited=waited, rate=batch.log_mel.shape[:2].numel() * 0.4 / passed)
                self.seconds += passed
                bar.update(min(passed, bar.total - bar.n))
                if self.step % 50 == 0:
                    self._report(log, stage, bar)
                if self.seconds - last_listen > self.config.listen_every_seconds:
                    self._listen(log, stage, orders)
                    last_listen = self.seconds
                if self.seconds - last_save > self.config.save_every_seconds:
                    self.save()
                    last_save = self.seconds
            self._listen(log, stage, orders)
        self.save()

    def begin_joint(self) -> None:
        """From the tower alone to everything: a new optimiser over all parameters."""
        self.stage, self.step = "joint", 0
        self.optimizer = self._optimizer()
        self.save()

    def _report(self, log: TextIO, stage: str, bar: tqdm) -> None:
        means = {name: round(value, 4) for name, value in self.meter.means().items()}
        entry = {"stage": stage, "step": self.step, "seconds": round(self.seconds), **means}
        log.write(json.dumps(entry) + "\n")
        log.flush()
        bar.set_postfix(means)

    def _listen(self, log: TextIO, stage: str, orders: HeldOutOrders) -> None:
        scores = orders.score(self.model, self.word_ids, with_decoder=stage == "joint")
        entry = {"stage": stage, "step": self.step, "seconds": round(self.seconds), **scores}
        log.write(json.dumps(entry) + "\n")
        log.flush()
        tqdm.write(json.dumps(entry))


def load_vocabulary(work: Path, seed: int) -> Vocabulary:
    """The run's vocabulary, trained by the first call."""
    path = work / "tokenizer.json"
    if path.exists():
        return vocabulary_of(Tokenizer.from_file(str(path)))
    vocabulary = train_vocabulary(seed)
    vocabulary.tokenizer.save(str(path))
    return vocabulary


def load_trainer(work: Path, config: TrainingConfig, shape: ModelShape) -> Trainer:
    """A run as it was last saved.

    Raises:
        FileNotFoundError: nothing was saved in `work`.
    """
    trainer = Trainer(config, shape, load_vocabulary(work, config.seed), work)
    if not trainer.resume():
        raise FileNotFoundError(f"there is no training state in {work}")
    return trainer


class Batches:
    """Batches made by worker processes, for one stage after another."""

    def __init__(
        self, clips: list[Clip], sounds: Sounds, vocabulary: Vocabulary, workers: int
    ) -> None:
        self.clips, self.sounds, self.vocabulary = clips, sounds, vocabulary
        self.workers = workers

    def of(self, shapes: tuple[BatchShape, ...], seed: int) -> Iterator[Batch]:
        """An endless supply of batches of the given shapes."""
        stream = BatchStream(self.clips, self.sounds, self.vocabulary, list(shapes), seed)
        return iter(DataLoader(stream, batch_size=None, num_workers=self.workers))


def train(data: Path, work: Path, config: TrainingConfig, shape: ModelShape) -> Trainer:
    """A whole run from raw recordings; goes on where an earlier one stopped.

    Args:
        data: the folder of recordings with their manifests.
        work: a folder for what the run makes: clips, vocabulary, state, progress.
        config: lengths, rates and shapes of the run.
        shape: sizes of the model.
    """
    clips = prepare_clips(data, work, config.seed, config.workers)
    vocabulary = load_vocabulary(work, config.seed)
    sounds = load_sounds(data, clips, config.seed)
    trainer = Trainer(config, shape, vocabulary, work)
    orders = HeldOutOrders(clips, vocabulary, trainer.word_ids)
    batches = Batches(clips, sounds, vocabulary, config.workers)
    if not trainer.resume():
        maker = StreamMaker(clips, sounds, vocabulary, config.seed)
        initialise(trainer.model, maker.batch(32, 12).log_mel)
    total = 3600 * config.hours
    joint_start = config.tower_share * total
    joint_middle = joint_start + config.short_share * (total - joint_start)
    if trainer.stage == "tower":
        supply = batches.of(config.tower_shapes, config.seed + trainer.step)
        trainer.run_stage("tower", 0.0, joint_start, joint_start, supply, orders)
        trainer.begin_joint()
    for shapes, stop in ((config.short_shapes, joint_middle), (config.long_shapes, total)):
        if trainer.seconds < stop:
            supply = batches.of(shapes, config.seed + trainer.step + 1)
            trainer.run_stage("joint", joint_start, stop, total, supply, orders)
    return trainer
