"""The training run: the tower alone, then everything jointly; resumable at any moment."""

import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TextIO

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from backend.errors import SettingsError
from backend.protocol import ControlTokens
from backend.training.beginning import (
    Beginning,
    from_checkpoint,
    from_ears,
    from_scratch,
    has_ears,
    require_writable,
)
from backend.training.broad_speech import SPEECH, SpeechStore, keep_asked, synthetic_speech
from backend.training.clips import own_turns, people_clips
from backend.training.conversations import TrainingConversation, own_abilities, read_conversations
from backend.training.domain import abilities
from backend.training.knowledge import answer
from backend.training.listening import DevelopmentOrders, HeldOutConversations, HeldOutSet
from backend.training.model import ModelShape, Outputs, TrainingModel, initialise
from backend.training.running_means import RunningMeans
from backend.training.split import Split
from backend.training.streams import (
    BatchShape,
    BatchStream,
    Corpus,
    StreamBatch,
    StreamMaker,
    load_sounds,
    made_sounds,
)
from backend.training.tokens import IGNORED, Vocabulary, content_tokens
from backend.training.trials import ASKED_SEED, TRIALS
from backend.training.utterances import FRAME_SAMPLES, OwnTurn
from backend.training.word_pieces import WordPieces


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Everything that decides a run."""

    hours: float = 1.5
    """Length of the learning-rate schedule; longer is better."""
    tower_share: float = 0.14
    """Part of the hours in which the tower learns phones alone."""
    short_share: float = 0.45
    """Part of the joint training with short streams."""
    hearing_first: bool = True
    """Whether replies count less at the beginning than words and phones."""
    average_share: float = 0.03
    """Part of the hours that the mean of the weights spans."""
    tower_learning_rate: float = 3e-3
    learning_rate: float = 2e-3
    tower_factor: float = 0.5
    """The tower's learning rate in joint training, relative to the decoder's."""
    tower_until: float = 1.0
    """Part of the joint training after which the tower stays as it is, for cheaper steps."""
    phone_weight: float = 1.0
    """How much phones count in joint training: nothing for ears that tell words apart."""
    warmup_steps: int = 80
    clip_norm: float = 2.0
    weight_decay: float = 0.02
    content_weight: float = 3.0
    """How much a reply's digit or slot word counts, relative to its other tokens."""
    decision_weight: float = 2.0
    """The same of both decisions, to reply and to stay silent."""
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

    def with_ears(self) -> "TrainingConfig":
        """The same for a model that hears and does not write yet.

        Its ears are good already: what is left to learn takes place in the decoder.
        """
        return replace(
            self,
            tower_share=0.0,
            hearing_first=False,
            phone_weight=0.0,
            learning_rate=0.75 * self.learning_rate,
            tower_factor=0.2,
            tower_until=0.25,
        )

    def further(self) -> "TrainingConfig":
        """The same for a model that already hears and writes: gently, and everything at once."""
        return replace(
            self,
            tower_share=0.0,
            hearing_first=False,
            learning_rate=self.learning_rate / 10,
        )

    def with_room(self, num_chunks: int) -> "TrainingConfig":
        """The same with a shape of joint batches that holds `num_chunks`, if none does."""
        largest = max(self.long_shapes, key=lambda shape: shape.num_chunks)
        if num_chunks <= largest.num_chunks:
            return self
        num_streams = max(1, largest.num_streams * largest.num_chunks // num_chunks)
        longer = BatchShape(num_streams, num_chunks)
        return replace(
            self,
            short_shapes=(*self.short_shapes, longer),
            long_shapes=(*self.long_shapes, longer),
        )


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much each part of the joint loss counts."""

    reply: float
    words: float
    phone: float


def loss_weights(progress: float) -> LossWeights:
    """Hearing first, writing later; `progress` of the joint training from 0 to 1."""
    return LossWeights(
        reply=0.3 if progress < 0.15 else 1.0,
        words=0.3,
        phone=0.3 if progress < 0.4 else 0.12,
    )


def learning_rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    """Warm-up by steps, a plateau, then a cosine to 2 % by progress."""
    cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, (progress - 0.1) / 0.9)))
    return min(1.0, (step + 1) / warmup_steps) * (0.02 + 0.98 * cosine)


def feature_loss(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy per known feature of `[B, N, classes]` against `[B, N]`; 0 if none is known."""
    known = targets != IGNORED
    if not known.any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits[known], targets[known], weight=weight)


def phone_accuracy(logits: Tensor, phones: Tensor) -> float:
    """Share of spoken features whose phone is right."""
    spoken = phones > 0
    return (logits.argmax(-1)[spoken] == phones[spoken]).float().mean().item()


def words_loss(logits: Tensor, batch: StreamBatch) -> Tensor:
    """CTC of `[B, N, pieces]` over all that is known to be said, and not said, per piece."""
    stretches = batch.transcripts
    num_pieces = sum(len(stretch.pieces) for _, stretch in stretches)
    longest = max((stretch.stop - stretch.start for _, stretch in stretches), default=0)
    if not longest:
        return logits.sum() * 0.0
    heard = [
        F.pad(logits[row, stretch.start : stretch.stop], (0, 0, 0, longest - lasts))
        for row, stretch in stretches
        for lasts in [stretch.stop - stretch.start]
    ]
    losses = F.ctc_loss(
        torch.stack(heard, dim=1).log_softmax(-1),
        torch.tensor([piece for _, stretch in stretches for piece in stretch.pieces]),
        torch.tensor([stretch.stop - stretch.start for _, stretch in stretches]),
        torch.tensor([len(stretch.pieces) for _, stretch in stretches]),
        reduction="sum",
        zero_infinity=True,
    )
    return losses / max(1, num_pieces)


class Trainer:
    """Owns the model, its optimiser and the run's state on disk."""

    def __init__(self, config: TrainingConfig, beginning: Beginning, work: Path) -> None:
        vocabulary = beginning.vocabulary
        self.config, self.vocabulary, self.work = config, vocabulary, work
        self.system_prompt = beginning.system_prompt
        self.abilities = beginning.abilities
        self.pieces = beginning.pieces
        torch.manual_seed(config.seed)
        self.model = TrainingModel(beginning.shape, vocabulary.size, self.pieces.size)
        beginning.begin(self.model)
        self.average: list[Tensor] | None = None
        """The mean of the weights in joint training, in the order of the model's parameters."""
        self.stage = "tower"
        self.step = 0
        self.seconds = 0.0
        self.audio_seconds = 0.0
        self.optimizer = self._optimizer()
        self.token_weights = torch.ones(vocabulary.size)
        # Equally: to count a reply more makes the model answer who says something else.
        self.token_weights[vocabulary.control.text_begin] = config.decision_weight
        self.token_weights[vocabulary.control.keep_silence] = config.decision_weight
        # Most of a reply is the same in every reply.
        self.token_weights[content_tokens(vocabulary)] = config.content_weight
        self.meter = RunningMeans()

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
                "tokenizer": self.vocabulary.tokenizer.to_str(),
                "pieces": self.pieces.tokenizer.to_str(),
                "control": asdict(self.vocabulary.control),
                "vocab_size": self.vocabulary.size,
                "system_prompt": self.system_prompt,
                "abilities": list(self.abilities),
                "hours": self.config.hours,
                "average": self.average,
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
        """Go on where the last save was; False where there is none.

        Raises:
            SettingsError: the save is of another model.
        """
        if not self.state_path.exists():
            return False
        state = torch.load(self.state_path, weights_only=True)
        if (
            state["shape"] != asdict(self.model.shape)
            or state["tokenizer"] != self.vocabulary.tokenizer.to_str()
            or state["pieces"] != self.pieces.tokenizer.to_str()
        ):
            raise SettingsError(
                f"the run in {self.work} is of another model: choose another folder"
            )
        self.model.load_state_dict(state["model"])
        self.stage = state["stage"]
        if self.stage == "joint":
            self.average = state["average"]
        self.optimizer = self._optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.audio_seconds = state["audio_seconds"]
        return True

    def _weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]

    @torch.no_grad()
    def _follow(self, seconds: float) -> None:
        """The mean of the weights moves towards them, after a step of `seconds`."""
        if self.average is not None:
            span = 3600 * self.config.hours * self.config.average_share
            weight = 1 - math.exp(-seconds / span)
            torch._foreach_lerp_(self.average, list(self.model.parameters()), weight)

    @torch.no_grad()
    def averaged(self) -> TrainingModel:
        """The model with the mean of the weights; before joint training, as it is."""
        model = copy.deepcopy(self.model)
        if self.average is not None:
            torch._foreach_copy_(list(model.parameters()), self.average)
        return model

    # One step

    def tower_step(self, batch: StreamBatch) -> None:
        """The tower learns to name phones."""
        logits = self.model.phones(batch.log_mel)
        loss = feature_loss(logits, batch.phones)
        self._descend(loss)
        self.meter.add(loss=loss.item(), phones=phone_accuracy(logits, batch.phones))

    def joint_step(self, batch: StreamBatch, progress: float) -> None:
        """Everything learns everything; towards the end, all but the tower."""
        self.model.tower.requires_grad_(progress < self.config.tower_until)
        outputs = self.model(batch.log_mel, batch.ids, batch.audio_positions)
        weights = loss_weights(progress if self.config.hearing_first else 1.0)
        reply = self._reply_loss(outputs, batch)
        words = words_loss(outputs.words, batch)
        loss = weights.reply * reply + weights.words * words
        if phone_weight := weights.phone * self.config.phone_weight:
            phone = feature_loss(outputs.tower_phones, batch.phones) + feature_loss(
                outputs.decoder_phones, batch.phones
            )
            loss = loss + phone_weight * phone
            self.meter.add(phones=phone_accuracy(outputs.tower_phones, batch.phones))
        self._descend(loss)
        self.meter.add(reply=reply.item(), words=words.item())

    def _reply_loss(self, outputs: Outputs, batch: StreamBatch) -> Tensor:
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
        batches: Iterator[StreamBatch],
        listeners: Sequence[HeldOutSet],
    ) -> None:
        """Train until `stop` seconds of the run; the learning rate falls from `start` to `end`.

        The clock is that of the processor: it stands still while the process is stopped, and
        while others have its cores.
        """
        last_save = last_listen = self.seconds
        log = (self.work / "progress.jsonl").open("a", encoding="utf-8")
        bar = tqdm(total=round(stop - self.seconds), desc=stage, unit="s")
        with log, bar:
            while self.seconds < stop:
                began = time.process_time()
                progress = (self.seconds - start) / (end - start)
                factor = learning_rate_factor(self.step, progress, self.config.warmup_steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = group["peak_rate"] * factor
                batch = next(batches)
                made = time.process_time() - began
                if stage == "tower":
                    self.tower_step(batch)
                else:
                    self.joint_step(batch, progress)
                self.step += 1
                self.audio_seconds += batch.log_mel.shape[0] * batch.log_mel.shape[1] * 0.4
                passed = (time.process_time() - began) / torch.get_num_threads()
                self.meter.add(made=made, rate=batch.log_mel.shape[:2].numel() * 0.4 / passed)
                self.seconds += passed
                self._follow(passed)
                bar.update(min(passed, bar.total - bar.n))
                if self.step % 50 == 0:
                    self._report(log, stage, bar)
                if self.seconds - last_listen > self.config.listen_every_seconds:
                    self._listen(log, stage, listeners)
                    last_listen = self.seconds
                if self.seconds - last_save > self.config.save_every_seconds:
                    self.save()
                    last_save = self.seconds
            self._listen(log, stage, listeners)
        self.save()

    def begin_joint(self) -> None:
        """From the tower alone to everything: a new optimiser over all parameters."""
        self.stage, self.step = "joint", 0
        self.optimizer = self._optimizer()
        self.average = self._weights()
        self.save()

    def _report(self, log: TextIO, stage: str, bar: tqdm) -> None:
        means = {name: round(value, 4) for name, value in self.meter.means().items()}
        entry = {"stage": stage, "step": self.step, "seconds": round(self.seconds), **means}
        log.write(json.dumps(entry) + "\n")
        log.flush()
        bar.set_postfix(means)

    def _listen(self, log: TextIO, stage: str, listeners: Sequence[HeldOutSet]) -> None:
        model = self.averaged()
        scores: dict[str, float] = {}
        for listener in listeners:
            scores |= listener.score(model, with_decoder=stage == "joint")
        entry = {"stage": stage, "step": self.step, "seconds": round(self.seconds), **scores}
        log.write(json.dumps(entry) + "\n")
        log.flush()
        tqdm.write(json.dumps(entry))


def load_trainer(work: Path, config: TrainingConfig) -> Trainer:
    """A run as it was last saved.

    Raises:
        SettingsError: nothing was saved in `work`.
    """
    path = work / "state.pt"
    if not path.exists():
        raise SettingsError(f"there is no training state in {work}")
    state = torch.load(path, weights_only=True)
    beginning = Beginning(
        ModelShape(**state["shape"]),
        Vocabulary(
            Tokenizer.from_str(state["tokenizer"]),
            ControlTokens(**state["control"]),
            state["vocab_size"],
        ),
        WordPieces(Tokenizer.from_str(state["pieces"])),
        state["system_prompt"],
        tuple(state["abilities"]),
    )
    trainer = Trainer(config, beginning, work)
    trainer.resume()
    return trainer


class Batches:
    """Batches made by worker processes, for one stage after another."""

    def __init__(
        self, corpus: Corpus, vocabulary: Vocabulary, pieces: WordPieces, workers: int
    ) -> None:
        self.corpus, self.vocabulary, self.pieces = corpus, vocabulary, pieces
        self.workers = workers

    def of(self, shapes: tuple[BatchShape, ...], seed: int) -> Iterator[StreamBatch]:
        """An endless supply of batches of the given shapes."""
        stream = BatchStream(self.corpus, self.vocabulary, self.pieces, list(shapes), seed)
        return iter(DataLoader(stream, batch_size=None, num_workers=self.workers))


@dataclass(frozen=True, slots=True)
class Sources:
    """What a run learns from; the embedded checkpoint's recordings, somebody's own, or both."""

    data: Path | None = None
    """The folder of the embedded checkpoint's recordings, with their manifests."""
    conversations: Path | None = None
    """Somebody's own, as JSONL."""
    held_out: Path | None = None
    """More of them, which are not learnt, to follow the progress."""
    checkpoint: str | None = None
    """`embedded`, a folder or a Hub id to begin with; None: from scratch."""


def train(
    sources: Sources, caches: Path, work: Path, config: TrainingConfig, shape: ModelShape
) -> Trainer:
    """A whole run from raw recordings; goes on where an earlier one stopped.

    Args:
        sources: recordings, and the checkpoint to begin with.
        caches: a folder for the clips that are made of `sources.data`.
        work: a folder for what the run makes: vocabulary, state, progress.
        config: lengths, rates and shapes of the run.
        shape: sizes of the model, where it begins from scratch.

    Raises:
        SettingsError: there is something wrong with somebody's own recordings.
        CheckpointError: so it is with the checkpoint.
    """
    work.mkdir(parents=True, exist_ok=True)
    own = read_conversations(sources.conversations) if sources.conversations else []
    held_out = read_conversations(sources.held_out) if sources.held_out else []
    if sources.checkpoint:
        beginning = from_checkpoint(sources.checkpoint)
        require_writable(beginning.vocabulary, _replies(own + held_out))
        config = config.further()
    elif sources.data and has_ears(caches):
        beginning = from_ears(caches, work, config.seed, _replies(own))
        config = config.with_ears()
    else:
        beginning = from_scratch(shape, work, config.seed, _replies(own))
    known = tuple(abilities()) if sources.data else beginning.abilities
    taught = own_abilities(own)
    beginning = replace(
        beginning, abilities=taught + tuple(ability for ability in known if ability not in taught)
    )
    if sources.data:
        clips = people_clips(sources.data, caches, max(1, config.workers))
        sounds = load_sounds(sources.data, clips, config.seed)
        speech = synthetic_speech(SpeechStore(caches / SPEECH))
        if not speech:
            tqdm.write("No synthetic voices are heard: make speak has them read.")
    else:
        clips, sounds, speech = [], made_sounds(config.seed), []
    turns = _prepared(own, config.workers)
    corpus = Corpus(clips, sounds, turns, beginning.system_prompt, speech)
    if not corpus.has_phones:
        config = replace(config, tower_share=0.0)
    config = config.with_room(corpus.num_chunks)
    trainer = Trainer(config, beginning, work)
    vocabulary, prompt = beginning.vocabulary, beginning.system_prompt
    listeners: list[HeldOutSet] = []
    if sources.data:
        listeners.append(DevelopmentOrders(clips, vocabulary, trainer.pieces, prompt))
        asked = _asked(sources.data, caches)
        listeners.append(HeldOutConversations(asked, vocabulary, prompt, "asked"))
    if held_out:
        turns = _prepared(held_out, config.workers)
        listeners.append(HeldOutConversations(turns, vocabulary, prompt))
    if not trainer.resume() and beginning.weights is None:
        maker = StreamMaker(corpus, vocabulary, trainer.pieces, config.seed)
        initialise(trainer.model, maker.batch(32, 12).log_mel)
    tqdm.write(_plan_of(trainer))
    _run(trainer, Batches(corpus, vocabulary, trainer.pieces, config.workers), listeners)
    return trainer


def _asked(data: Path, caches: Path) -> list[list[OwnTurn]]:
    """Questions and words to repeat that no training hears, each a conversation."""
    store = SpeechStore(caches / TRIALS)
    clips = keep_asked(store, data, Split.DEVELOPMENT, ASKED_SEED)
    return [
        [OwnTurn(clip.audio, clip.audio.size // FRAME_SAMPLES, answer(clip.text)[1], None)]
        for clip in clips
    ]


def _replies(conversations: list[TrainingConversation]) -> list[str]:
    return [turn.reply.text for talk in conversations for turn in talk.turns if turn.reply]


def _prepared(conversations: list[TrainingConversation], workers: int) -> list[list[OwnTurn]]:
    turns, num_unaligned = own_turns(conversations, workers)
    if num_unaligned:
        tqdm.write(
            f"{num_unaligned} transcripts do not fit the acoustic model and its dictionary: "
            "their turns are learnt without words."
        )
    return turns


def _plan_of(trainer: Trainer) -> str:
    """What will be done, how long it takes and where it is kept."""
    config = trainer.config
    left = max(0.0, 3600 * config.hours - trainer.seconds)
    tower = ""
    if trainer.stage == "tower" and config.tower_share:
        minutes = 60 * config.hours * config.tower_share
        tower = f"the tower alone until minute {minutes:.1f}, then "
    begun = f" {trainer.seconds / 3600:.2f} h of it are done." if trainer.seconds else ""
    ready = datetime.now() + timedelta(seconds=left)
    return (
        f"Training takes {config.hours:.3g} h: {tower}everything jointly."
        f"{begun} It is ready at about {ready:%H:%M}, and goes on from {trainer.work} "
        "where it was stopped."
    )


def _run(trainer: Trainer, batches: Batches, listeners: Sequence[HeldOutSet]) -> None:
    """All stages that are still to come."""
    config = trainer.config
    total = 3600 * config.hours
    joint_start = config.tower_share * total
    joint_middle = joint_start + config.short_share * (total - joint_start)
    if trainer.stage == "tower":
        if joint_start:
            supply = batches.of(config.tower_shapes, config.seed + trainer.step)
            trainer.run_stage("tower", 0.0, joint_start, joint_start, supply, listeners)
        trainer.begin_joint()
    for shapes, stop in ((config.short_shapes, joint_middle), (config.long_shapes, total)):
        if trainer.seconds < stop:
            supply = batches.of(shapes, config.seed + trainer.step + 1)
            trainer.run_stage("joint", joint_start, stop, total, supply, listeners)
