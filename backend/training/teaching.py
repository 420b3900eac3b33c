"""Something new from a few takes, in minutes on a CPU, while what a model knew stays.

The tower and the lower layers of the decoder stay as they are, so that a pool of streams goes
through them once; the layers above learn from what comes out, again and again. Streams with the
takes are learnt as they should be answered. Streams of old skills, noise and quiet are learnt from
the model itself as it was: whatever it made of them, it goes on making of them.
"""

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.errors import SettingsError
from backend.training.beginning import Beginning
from backend.training.model import TrainingModel
from backend.training.rehearsal import NUM_CHUNKS
from backend.training.streams import Corpus, StreamBatch, StreamMaker
from backend.training.takes import Take
from backend.training.tokens import IGNORED

TAUGHT = {"own": 0.9, "burst": 0.1}
"""How often what is drawn in streams with the takes."""

TAUGHT_CHUNKS = 12
"""Of a stream with takes; more where one is long."""

Report = Callable[[float], None]
"""Is told what share of the work is done."""


@dataclass(frozen=True, slots=True)
class TeachingConfig:
    """Everything that decides what is learnt from takes."""

    taught_batches: int = 24
    """With takes in them."""
    rehearsed_batches: int = 60
    """With what was known before."""
    streams_of_a_batch: int = 8
    steps: int = 400
    warmup_steps: int = 20
    learning_rate: float = 1e-3
    rehearsed_weight: float = 4.0
    """How much a batch that is rehearsed counts, relative to one with takes."""
    decision_weight: float = 2.0
    """How much a decision counts, relative to the tokens of a reply."""
    learnt_layers: int = 3
    """Of the decoder, from the top; all, where it has fewer."""
    clip_norm: float = 1.0
    seed: int = 7
    save_every_steps: int = 50


@dataclass(frozen=True, slots=True)
class HeardBatch:
    """A batch of streams below the layers that learn; B streams, L positions, T targets."""

    hidden: Tensor
    """[B, L, width], in 16 bits"""
    at: Tensor
    """[2, T]: stream and position of what is learnt"""
    targets: Tensor
    """[T]: the token that is right there"""
    wanted: Tensor
    """[T, vocabulary]: log-probabilities of the model as it was, in 16 bits"""


class UpperLayers(nn.Module):
    """The top of a decoder: what learns."""

    def __init__(self, model: TrainingModel, num_layers: int) -> None:
        super().__init__()
        decoder = model.decoder.model
        self.first = max(0, len(decoder.layers) - num_layers)
        self.layers = decoder.layers[self.first :]
        self.norm = decoder.norm
        # In a tuple, as they are no part of what learns.
        self._frozen = (decoder.rotary_emb, model.decoder.lm_head)

    def forward(self, hidden: Tensor, at: Tensor) -> Tensor:
        """Logits `[T, vocabulary]` at the positions `at` [2, T] of `hidden` [B, L, width]."""
        rotary, head = self._frozen
        positions = torch.arange(hidden.shape[1])[None]
        rotation = rotary(hidden, positions)
        for layer in self.layers:
            hidden = layer(hidden, position_ids=positions, position_embeddings=rotation)
        logits: Tensor = head(self.norm(hidden[at[0], at[1]]))
        return logits


@torch.no_grad()
def hear(model: TrainingModel, upper: UpperLayers, batch: StreamBatch) -> HeardBatch:
    """What the layers below those that learn make of a batch, and what those above made of it.

    Args:
        model: as it was.
        upper: its top.
        batch: streams that fit into the model's window.
    """
    decoder = model.decoder.model
    features = model.encode(batch.log_mel)
    at_audio = batch.audio_positions[..., None].expand(-1, -1, features.shape[-1])
    hidden = decoder.embed_tokens(batch.ids).scatter(1, at_audio, features)
    positions = torch.arange(hidden.shape[1])[None]
    rotation = decoder.rotary_emb(hidden, positions)
    for layer in decoder.layers[: upper.first]:
        hidden = layer(hidden, position_ids=positions, position_embeddings=rotation)
    learnt = batch.labels[:, 1:] != IGNORED
    at = torch.stack(torch.nonzero(learnt, as_tuple=True))
    wanted = upper(hidden, at).log_softmax(-1)
    return HeardBatch(hidden.half(), at, batch.labels[:, 1:][learnt], wanted.half())


class _Streams:
    """An endless supply of streams that a model has heard."""

    def __init__(
        self, beginning: Beginning, corpus: Corpus, num_chunks: int, num_streams: int, seed: int
    ) -> None:
        self._maker = StreamMaker(corpus, beginning.vocabulary, beginning.pieces, seed)
        self._window = beginning.shape.window
        self._shape = (num_streams, num_chunks)

    def hear(self, model: TrainingModel, upper: UpperLayers) -> HeardBatch:
        """The next batch."""
        while True:
            batch = self._maker.batch(*self._shape)
            # A long prompt, which is drawn now and then, may leave no room.
            if batch.ids.shape[1] <= self._window:
                return hear(model, upper, batch)


class TakesTeacher:
    """Has a model learn a few takes; goes on where it was stopped.

    Args:
        beginning: a checkpoint's.
        takes: what is to be learnt.
        rehearsed: what is to stay.
        work: where the run is kept.
        config: everything else.
    """

    def __init__(
        self,
        beginning: Beginning,
        takes: Sequence[Take],
        rehearsed: Corpus,
        work: Path,
        config: TeachingConfig,
    ) -> None:
        self.config = config
        self.state_path = work / "state.pt"
        torch.manual_seed(config.seed)
        self.model = TrainingModel(
            beginning.shape, beginning.vocabulary.size, beginning.pieces.size
        )
        beginning.begin(self.model)
        self.model.requires_grad_(False)
        self.upper = UpperLayers(self.model, config.learnt_layers)
        self.upper.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.upper.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        self.step = 0
        self._takes = sha256(b"".join(take.audio.tobytes() for take in takes)).hexdigest()
        control = beginning.vocabulary.control
        self._weights = torch.ones(beginning.vocabulary.size)
        self._weights[[control.text_begin, control.keep_silence]] = config.decision_weight
        turns = [[take.turn()] for take in takes]
        taught = Corpus([], rehearsed.sounds, turns, beginning.system_prompt, shares=TAUGHT)
        size, seed = config.streams_of_a_batch, config.seed
        room = max(TAUGHT_CHUNKS, taught.num_chunks)
        self._taught = _Streams(beginning, taught, room, size, seed)
        self._rehearsed = _Streams(beginning, rehearsed, NUM_CHUNKS, size, seed + 1)

    def run(self, report: Report) -> None:
        """All steps that are still to come."""
        config = self.config
        num_batches = config.taught_batches + config.rehearsed_batches
        total = num_batches + config.steps
        pools: tuple[list[HeardBatch], list[HeardBatch]] = ([], [])
        sizes = (config.taught_batches, config.rehearsed_batches)
        for pool, streams, size in zip(pools, (self._taught, self._rehearsed), sizes, strict=True):
            for _ in range(size):
                pool.append(streams.hear(self.model, self.upper))
                report(sum(map(len, pools)) / total)
        # Only now: what is rehearsed is what the model was before.
        self._resume()
        rng = random.Random(config.seed)
        taught, rehearsed = (_endless(pool, rng) for pool in pools)
        while self.step < config.steps:
            self._learn(next(taught), next(rehearsed))
            self.step += 1
            report((num_batches + self.step) / total)
            if self.step % config.save_every_steps == 0:
                self._save()

    def _learn(self, taught: HeardBatch, rehearsed: HeardBatch) -> None:
        config = self.config
        warm = min(1.0, (self.step + 1) / config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * warm * (1 - self.step / config.steps)
        self.optimizer.zero_grad()
        logits = self.upper(taught.hidden.float(), taught.at)
        new = F.cross_entropy(logits, taught.targets, weight=self._weights)
        logits = self.upper(rehearsed.hidden.float(), rehearsed.at)
        wanted = rehearsed.wanted.float()
        old = F.kl_div(logits.log_softmax(-1), wanted, log_target=True, reduction="batchmean")
        (new + config.rehearsed_weight * old).backward()
        nn.utils.clip_grad_norm_(self.upper.parameters(), config.clip_norm)
        self.optimizer.step()

    def _save(self) -> None:
        state = io.BytesIO()  # torch says of a full disk that some stream has failed
        torch.save(
            {
                "config": asdict(self.config),
                "takes": self._takes,
                "upper": self.upper.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
            },
            state,
        )
        partial = self.state_path.with_suffix(".partial")
        partial.write_bytes(state.getbuffer())
        partial.replace(self.state_path)

    def _resume(self) -> None:
        """Go on where the last save was, if there is one.

        Raises:
            SettingsError: it is of another run.
        """
        if not self.state_path.exists():
            return
        state = torch.load(self.state_path, weights_only=True)
        if (state["config"], state["takes"]) != (asdict(self.config), self._takes):
            raise SettingsError(
                f"the run in {self.state_path.parent} is of other takes: choose another folder"
            )
        self.upper.load_state_dict(state["upper"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def _endless(pool: list[HeardBatch], rng: random.Random) -> Iterator[HeardBatch]:
    while True:
        yield from rng.sample(pool, len(pool))
