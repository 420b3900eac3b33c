"""What weights of 8 and 4 bits cost and keep, beside those of 16 or 32."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from tqdm import tqdm

from backend.audio import Samples
from backend.config import CHUNK_SECONDS, GREEDY, Bits, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.engine.cost import noise_chunks, run_steps
from backend.engine.session import Session
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.filling import Filling, Target, filled_audio_tower, filled_language_model
from backend.recordings.replay import Witness
from bench.random_checkpoint import LARGER, random_checkpoint
from bench.rounding import CLIP_SECONDS, Deviation, clips

MAX_REPLY_TOKENS = 32
REPLY_CHUNK = 2
"""With which a reply is asked for, where a checkpoint of random weights starts none."""
RANDOM_CLIPS = 3
"""Of those that are heard: random weights are slower, and are asked for a reply in each."""
COST_CHUNKS = 30


@dataclass(slots=True)
class BitsAgreement:
    """Of what is drawn, when both go on with the same tokens."""

    num_equal: int = 0
    deviation: Deviation = field(default_factory=Deviation)

    def __str__(self) -> str:
        num = self.deviation.num_tokens
        share = self.num_equal / num if num else 1.0
        return f"{share:>8.1%} of {num:<5}{self.deviation.probability:>8.2f}"


class _Listener:
    """One session, whose tokens may be given."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        made: list[Witness] = []

        def witness(checkpoint: Checkpoint, num_slots: int, max_positions: int) -> Witness:
            made.append(Witness(checkpoint, num_slots, max_positions))
            return made[0]

        self.core = EngineCore(checkpoint, EngineConfig(num_slots=1), runner=witness)
        (self.witness,) = made
        self.session: Session

    def open(self) -> None:
        """Begin anew."""
        settings = SessionSettings(sampling=GREEDY, max_reply_tokens=MAX_REPLY_TOKENS)
        self.session = self.core.open(settings)
        for _ in run_steps(self.core):
            pass


def measure_agreement(
    reference: Checkpoint, other: Checkpoint, heard: Sequence[Samples], *, asks: bool
) -> tuple[BitsAgreement, BitsAgreement]:
    """Hear clips with both, and compare what each decides and says after the same tokens.

    Args:
        reference: whose tokens both go on with.
        other: the same with other weights.
        heard: chunks `[chunks, 6400]` of each clip.
        asks: whether a reply is asked for in each.

    Returns:
        that of decisions and that of replies' tokens.
    """
    decisions, tokens = BitsAgreement(), BitsAgreement()
    both = [_Listener(reference), _Listener(other)]
    for clip in tqdm(heard, unit="clip", leave=False, disable=None):
        for listener in both:
            listener.open()
        for number, chunk in enumerate(clip):
            for listener in both:
                if asks and number == REPLY_CHUNK:
                    listener.core.request_reply(listener.session)
                listener.core.hear(listener.session, chunk)
            for is_token in _steps(*both):
                agreement = tokens if is_token else decisions
                expected, found = (listener.witness for listener in both)
                agreement.num_equal += expected.drawn == found.drawn
                agreement.deviation.take(found.draw.logits, expected.draw.logits)
        for listener in both:
            listener.core.close(listener.session)
    return decisions, tokens


def _steps(reference: _Listener, other: _Listener) -> Iterator[bool]:
    """Step both side by side; tells of each step whether a token of a reply was drawn in it."""
    while reference.core.has_work():
        is_token = reference.session.is_speaking
        for _ in reference.core.step():
            pass
        other.witness.expected = reference.witness.drawn
        for _ in other.core.step():
            pass
        yield is_token


def in_bits(checkpoint: Checkpoint, bits: Bits) -> Checkpoint:
    """A checkpoint of random weights with fewer bits."""
    target = Target(checkpoint.device, checkpoint.dtype, bits)

    def filling(model: torch.nn.Module) -> Filling:
        weights = dict(model.named_parameters())
        return Filling(weights, lambda name, start, end: weights[name][start:end], target)

    control = checkpoint.control_tokens
    return replace(
        checkpoint,
        bits=bits,
        language_model=filled_language_model(
            LARGER.language_model,
            filling(checkpoint.language_model),
            (control.keep_silence, control.text_begin),
        ),
        audio_tower=filled_audio_tower(LARGER.audio_tower, filling(checkpoint.audio_tower.encoder)),
    )


def chunk_milliseconds(checkpoint: Checkpoint) -> float:
    """CPU time of a chunk, the median, of all threads."""
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    session = core.open(SessionSettings(sampling=GREEDY, max_reply_tokens=MAX_REPLY_TOKENS))
    costs = []
    for chunk in noise_chunks(COST_CHUNKS):
        core.hear(session, chunk)
        began = time.process_time()
        for _ in run_steps(core):
            pass
        costs.append((time.process_time() - began) * 1000)
    return statistics.median(costs)


def report_bits(source: str, num_threads: int, clip_seconds: float = CLIP_SECONDS) -> None:
    """Print how a checkpoint and one of random weights agree with themselves in fewer bits.

    Args:
        source: the checkpoint, as `load_checkpoint` takes it.
        num_threads: of the CPU.
        clip_seconds: of each recording that is heard.
    """
    torch.set_num_threads(num_threads)
    heard = clips(round(clip_seconds / CHUNK_SECONDS))
    print(f"Agreement with the same checkpoint in float32, {num_threads} CPU thread(s)")
    print(f"{'':<18}{'chunk':>10}{'decisions':>18}{'largest':>10}{'tokens':>18}{'largest':>10}")
    exact = load_checkpoint(source, device="cpu", dtype="float32")
    fewer = {bits: load_checkpoint(source, device="cpu", bits=bits) for bits in (8, 4)}
    _report(exact.name, exact, fewer, heard, asks=False)
    random = random_checkpoint(LARGER, torch.device("cpu"), torch.float32)
    fewer = {bits: in_bits(random, Bits(bits)) for bits in (8, 4)}
    _report("random", random, fewer, heard[:RANDOM_CLIPS], asks=True)
    print(
        "Chunk: CPU milliseconds. Largest: difference of a probability, after the same tokens.\n"
        "Of random weights many tokens are as likely as the likeliest.\n"
    )


def _report(
    name: str,
    exact: Checkpoint,
    fewer: dict[int, Checkpoint],
    heard: Sequence[Samples],
    *,
    asks: bool,
) -> None:
    print(f"{name:<18}{chunk_milliseconds(exact):>8.1f}ms")
    for bits, checkpoint in fewer.items():
        decisions, tokens = measure_agreement(exact, checkpoint, heard, asks=asks)
        print(
            f"{f'{name}, {bits} bits':<18}{chunk_milliseconds(checkpoint):>8.1f}ms"
            f"{decisions}{tokens}"
        )
