"""How far a batch of several moves what tokens are drawn from, beside each session alone."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from backend.audio import Samples, read_audio
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, GREEDY, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.engine.cost import run_steps
from backend.engine.model_runner import ModelRunner, Step, StepOutcome, StepRow
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED
from backend.recordings.replay import TIE_LOGITS, Witness
from bench.samples import SAMPLES_FOLDER

NUM_SESSIONS = 8
CLIP_SECONDS = 18.0
NUM_LIKELIEST = 20
"""Tokens of a reply that are compared: no other is ever drawn."""
ANSWERS_MORE = SessionSettings(sampling=GREEDY, decision_bias=1.0)
NOISE = 1e-3
"""Of the room, beside a full scale of 1."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(slots=True)
class Deviation:
    """The largest of some tokens."""

    num_tokens: int = 0
    logits: float = 0.0
    """Of the likeliest token's, less another one's."""
    probability: float = 0.0
    largest_logit: float = 0.0

    def take(self, batched: Tensor, alone: Tensor) -> None:
        """One more token: the logits `[tokens]` that it was drawn from."""
        compared = alone.topk(min(NUM_LIKELIEST, len(alone))).indices
        moved = (batched - alone)[compared]
        shares = batched.softmax(dim=-1) - alone.softmax(dim=-1)
        self.num_tokens += 1
        self.logits = max(self.logits, float((moved - moved[0]).abs().max()))
        self.probability = max(self.probability, float(shares.abs().max()))
        self.largest_logit = max(self.largest_logit, float(alone.abs().max()))


@dataclass(slots=True)
class RoundingFigures:
    """Decisions, and tokens of replies."""

    decisions: Deviation
    tokens: Deviation


class _Observer(ModelRunner):
    """Notes every session's tokens and what they are drawn from, by its slot."""

    def __init__(self, checkpoint: Checkpoint, num_slots: int, max_positions: int) -> None:
        super().__init__(checkpoint, num_slots, max_positions)
        self.tokens: dict[int, list[int | None]] = defaultdict(list)
        self.logits: dict[int, list[Tensor]] = defaultdict(list)

    def run(self, step: Step) -> StepOutcome:
        """As any runner."""
        outcome = super().run(step)
        for row, choice in zip(step.listening, outcome.choices, strict=True):
            self.tokens[row.slot].append(choice.token)
        for row, token in zip(step.speaking, outcome.tokens, strict=True):
            self.tokens[row.slot].append(token)
        return outcome

    def _draw(self, rows: Sequence[StepRow], logits: Tensor) -> Tensor:
        for row, drawn_from in zip(rows, logits.float(), strict=True):
            self.logits[row.slot].append(drawn_from.clone())
        return super()._draw(rows, logits)


def clips(num_chunks: int) -> list[Samples]:
    """Chunks `[chunks, 6400]` of different recordings, each in a quiet room."""
    listed = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    generator = np.random.default_rng(0)
    made = []
    for sample in listed[:NUM_SESSIONS]:
        clip = generator.normal(scale=NOISE, size=num_chunks * CHUNK_SAMPLES).astype(np.float32)
        # The recording begins with the second chunk.
        room = clip[CHUNK_SAMPLES:]
        sound = read_audio(SAMPLES_FOLDER / sample["file"])[: len(room)]
        room[: len(sound)] += sound
        made.append(clip.reshape(num_chunks, CHUNK_SAMPLES))
    return made


def measure_rounding(checkpoint: Checkpoint, heard: Sequence[Samples]) -> RoundingFigures:
    """Hear clips in one batch, then each alone with the same tokens, and compare.

    Args:
        checkpoint: on any device, in any format.
        heard: chunks `[chunks, 6400]` of each.
    """
    observer = _hear_together(checkpoint, heard)
    figures = RoundingFigures(Deviation(), Deviation())
    for slot, clip in enumerate(tqdm(heard, unit="clip", leave=False, disable=None)):
        drawn = zip(observer.tokens[slot], observer.logits[slot], strict=True)
        _compare_alone(checkpoint, clip, drawn, figures)
    return figures


def _hear_together(checkpoint: Checkpoint, heard: Sequence[Samples]) -> _Observer:
    observers: list[_Observer] = []

    def observe(*given: Any) -> _Observer:
        observers.append(_Observer(*given))
        return observers[0]

    core = EngineCore(checkpoint, EngineConfig(len(heard)), runner=observe)
    sessions = [core.open(ANSWERS_MORE) for _ in heard]
    for chunks in zip(*heard, strict=True):
        for session, chunk in zip(sessions, chunks, strict=True):
            core.hear(session, chunk)
        for _ in run_steps(core):
            pass
    return observers[0]


def _compare_alone(
    checkpoint: Checkpoint,
    clip: Samples,
    drawn: Iterator[tuple[int | None, Tensor]],
    figures: RoundingFigures,
) -> None:
    witnesses: list[Witness] = []

    def witness_all(*given: Any) -> Witness:
        witnesses.append(Witness(*given))
        return witnesses[0]

    core = EngineCore(checkpoint, EngineConfig(num_slots=1), runner=witness_all)
    (witness,) = witnesses
    session = core.open(ANSWERS_MORE)
    for _ in run_steps(core):
        pass
    for chunk in clip:
        core.hear(session, chunk)
        while core.has_work():
            witness.expected, batched = next(drawn)
            deviation = figures.tokens if session.is_speaking else figures.decisions
            for _ in core.step():
                pass
            deviation.take(batched, witness.draw.logits)


def report_rounding(clip_seconds: float = CLIP_SECONDS) -> None:
    """Print how far batches move decisions and tokens, beside the margin that is allowed."""
    torch.set_num_threads(1)
    heard = clips(round(clip_seconds / CHUNK_SECONDS))
    print(f"Largest difference, a batch of {NUM_SESSIONS} or each alone, embedded, one CPU thread")
    print(f"{'':<32}{'logits':>9}{'probability':>13}{'rounding':>10}{'allowed':>9}{'of it':>9}")
    for name, dtype in DTYPES.items():
        checkpoint = load_checkpoint(EMBEDDED, device="cpu", dtype=name)
        show_rounding(dtype, measure_rounding(checkpoint, heard))
    print(
        "Logits: of the likeliest token less another of the likeliest.\n"
        "Rounding: from the largest logit to the next number of the format.\n"
        "Allowed: what `replay --verify` takes for a tie.\n"
    )


def show_rounding(dtype: torch.dtype, figures: RoundingFigures) -> None:
    """Print the figures of one number format."""
    name, allowed = str(dtype).removeprefix("torch."), TIE_LOGITS[dtype]
    for label, found in (("decisions", figures.decisions), ("tokens", figures.tokens)):
        rounding = torch.finfo(dtype).eps * found.largest_logit
        print(
            f"{f'{name}, {found.num_tokens} {label}':<32}{found.logits:>9.2g}"
            f"{found.probability:>13.2g}{rounding:>10.2g}{allowed:>9g}"
            f"{found.logits / allowed:>9.2%}"
        )
