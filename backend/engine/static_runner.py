"""A runner whose passes have fixed sizes and static buffers, so that CUDA graphs can hold them.

A step is filled up to the next size with rows of padding, which have a slot of their own.
All that the device is told of it goes up in one copy and all that comes of it comes down in one;
between them the host waits for nothing, and what is launched does not depend on who is in it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.config import (
    CHUNK_SAMPLES,
    FEATURES_PER_CHUNK,
    LISTENING_POSITIONS,
    MEL_FRAMES_PER_CHUNK,
    NUM_MEL_BINS,
)
from backend.engine.model_runner import (
    FIRST_FEATURE,
    ModelRunner,
    Step,
    StepOutcome,
    StepRow,
    decision_numbers,
    said_tokens,
    spoken_tokens,
)
from backend.engine.sampler import sample
from backend.model.checkpoint import Checkpoint
from backend.model.slot_attention import (
    Attend,
    PassSize,
    RowTables,
    SlotAttention,
    attention_for,
)
from backend.protocol import listening_tokens

LONG_ROWS = (0, 1, 2, 4, 8, 16, 32, 64)
SHORT_ROWS = (0, 1, 4, 16, 64, 256)
MAX_PIECES = 16
"""Of contexts that are computed anew, in one pass."""
STATIC_TOP_K = 64
"""Tokens that a pass draws from; where more are asked for, it is drawn again behind the pass."""
_ALIGNMENT = 16

Field = tuple[tuple[int, ...], torch.dtype]
"""Shape and number format of a tensor."""


class _Layout:
    """Tensors that lie behind one another in one piece of memory, so that one copy takes all."""

    def __init__(self, stated: Mapping[str, Field]) -> None:
        self._fields = dict(stated)
        self._begins: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        """Of each tensor, in bytes."""
        end = 0
        for name, (shape, dtype) in stated.items():
            self._begins[name] = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = self.ends[name] = self._begins[name] + math.prod(shape) * dtype.itemsize
        self.num_bytes = end

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The tensors, in `memory` `[bytes]`."""
        return {
            name: memory[self._begins[name] : self.ends[name]].view(dtype).view(shape)
            for name, (shape, dtype) in self._fields.items()
        }


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a pass is told; where a part of a step's alone is used, the last are left out."""

    tokens: Tensor
    """`[positions]`."""
    positions: Tensor
    """`[positions]`, in their slots."""
    stored: Tensor
    """`[2, positions]`; see `SlotAttention`."""
    rows: Tensor
    """`[3, rows]`: places, starts and ends; see `RowTables`."""
    last: Tensor
    """`[rows]`, among the positions."""
    feature_at: Tensor
    """`[positions of long rows]`, among the features that were heard and those given; -1: none."""
    heard_slots: Tensor
    """`[long rows]`, of the sessions that hear a chunk."""
    draws: Tensor
    """`[3, rows]`: temperature, top-k and a uniform number of each."""
    biases: Tensor
    """`[long rows]`, of decisions."""
    audio: Tensor
    """`[long rows, 6400]`."""
    given: Tensor
    """`[pieces, 10, width]`: features of pieces."""

    @staticmethod
    def layout(size: PassSize, width: int, dtype: torch.dtype) -> _Layout:
        """Of a pass of a model."""
        whole, real = torch.int64, torch.float32
        return _Layout(
            {
                "tokens": ((size.num_positions,), whole),
                "positions": ((size.num_positions,), whole),
                "stored": ((2, size.num_positions), whole),
                "rows": ((3, size.num_rows), whole),
                "last": ((size.num_rows,), whole),
                "feature_at": ((size.long_positions,), whole),
                "heard_slots": ((size.long_rows,), whole),
                "draws": ((3, size.num_rows), real),
                "biases": ((size.long_rows,), real),
                "audio": ((size.long_rows, CHUNK_SAMPLES), real),
                "given": (
                    (min(size.long_rows, MAX_PIECES), FEATURES_PER_CHUNK, width),
                    dtype,
                ),
            }
        )


@dataclass(frozen=True, slots=True)
class _Results:
    """What comes of a pass."""

    tokens: Tensor
    """`[short rows]`; -1 where the numbers broke down."""
    decisions: Tensor
    """`[long rows, numbers]`; see `decision_numbers`."""
    features: Tensor
    """`[long rows, 10, width]`."""

    @staticmethod
    def layout(size: PassSize, width: int, dtype: torch.dtype, hears_words: bool) -> _Layout:
        """Of a pass of a model."""
        num_numbers = 5 + (FEATURES_PER_CHUNK if hears_words else 0)
        return _Layout(
            {
                "tokens": ((size.short_rows,), torch.int64),
                "decisions": ((size.long_rows, num_numbers), torch.float32),
                "features": ((size.long_rows, FEATURES_PER_CHUNK, width), dtype),
            }
        )


@dataclass(frozen=True, slots=True)
class _Memory:
    """A piece of memory on the device and its counterpart on the host, `[bytes]`."""

    device: Tensor
    host: Tensor

    @classmethod
    def allocate(cls, num_bytes: int, device: torch.device) -> "_Memory":
        """From a CUDA GPU's point of view the host's is pinned, so that nothing waits for it."""
        is_cuda = device.type == "cuda"
        return cls(
            torch.zeros(num_bytes, dtype=torch.uint8, device=device),
            torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=is_cuda),
        )

    def upload(self, num_bytes: int) -> None:
        """Begin to copy the first bytes to the device."""
        self.device[:num_bytes].copy_(self.host[:num_bytes], non_blocking=True)

    def download(self, num_bytes: int) -> None:
        """Begin to copy the first bytes to the host."""
        self.host[:num_bytes].copy_(self.device[:num_bytes], non_blocking=True)


class _HostRows:
    """A pass's inputs on the host, row by row."""

    def __init__(self, size: PassSize, views: dict[str, Tensor], scratch_place: int) -> None:
        self._size = size
        self.given = views["given"]
        numbers = {name: view.numpy() for name, view in views.items() if name != "given"}
        self._all = numbers
        self.audio = numbers["audio"]
        self.heard_slots = numbers["heard_slots"]
        self.biases = numbers["biases"]
        self.feature_at = numbers["feature_at"].reshape(-1, LISTENING_POSITIONS)
        self._padding = self._pad(scratch_place)

    def clear(self) -> None:
        """Let all rows be padding; of sounds and features nothing is read then."""
        for name, padding in self._padding.items():
            self._all[name][...] = padding

    def put(
        self,
        rows: slice,
        tokens: npt.ArrayLike,
        places: npt.ArrayLike,
        starts: npt.ArrayLike,
        count: int = 1,
    ) -> None:
        """Fill rows of one length.

        Args:
            rows: which, of all rows.
            tokens: `[rows, count]`.
            places: `[rows]`, in the cache.
            starts: `[rows]`, the positions of their first tokens.
            count: tokens of each.
        """
        size = self._size
        is_long = rows.start < size.long_rows
        steps = LISTENING_POSITIONS if is_long else 1
        begin = rows.start * steps if is_long else size.long_positions + rows.start - size.long_rows
        length = rows.stop - rows.start
        where = slice(begin, begin + length * steps)
        first, place = np.asarray(starts), np.asarray(places)
        positions = first[:, None] + np.arange(count)
        for name, values in (("tokens", tokens), ("positions", positions)):
            self._all[name][where].reshape(length, steps)[:, :count] = values
        stored = self._all["stored"][:, where].reshape(2, length, steps)
        stored[0, :, :count] = place[:, None]
        stored[1, :, :count] = positions
        self._all["stored"][:, where] = stored.reshape(2, -1)
        self._all["rows"][:, rows] = (place, first, first + count)
        self._all["last"][rows] = begin + np.arange(length) * steps + count - 1

    def draw(self, rows: slice, drawn: Sequence[StepRow]) -> None:
        """How tokens of some rows are drawn."""
        self._all["draws"][:, rows] = np.array([row.draw for row in drawn]).T

    def _pad(self, scratch_place: int) -> dict[str, npt.NDArray[np.generic]]:
        size = self._size
        steps = np.concatenate(
            [
                np.tile(np.arange(LISTENING_POSITIONS), size.long_rows),
                np.zeros(size.short_rows, np.int64),
            ]
        )
        ones, zeros = np.ones(size.num_rows), np.zeros(size.num_rows)
        return {
            "tokens": np.zeros_like(steps),
            "positions": steps,
            "stored": np.stack([np.full_like(steps, scratch_place), steps]),
            "rows": np.stack([np.full(size.num_rows, scratch_place), zeros, ones]),
            "last": zeros,
            "feature_at": np.full(size.long_positions, -1),
            "heard_slots": np.full(size.long_rows, scratch_place),
            "draws": np.stack([ones, ones, zeros]),
            "biases": np.zeros(size.long_rows),
        }


class _Pass:
    """One size's views of the buffers, and what runs it."""

    def __init__(
        self,
        size: PassSize,
        checkpoint: Checkpoint,
        inputs: _Memory,
        results: _Memory,
        scratch_place: int,
    ) -> None:
        self.size = size
        width = checkpoint.language_model.config.hidden_size
        self.input_layout = _Inputs.layout(size, width, checkpoint.dtype)
        self.result_layout = _Results.layout(
            size, width, checkpoint.dtype, checkpoint.word_head is not None
        )
        self.inputs = _Inputs(**self.input_layout.views(inputs.device))
        self.rows = _HostRows(size, self.input_layout.views(inputs.host), scratch_place)
        self.results = _Results(**self.result_layout.views(results.device))
        self.told = _Results(**self.result_layout.views(results.host))
        self.run: Callable[[], None]
        """Computes it; a recorded graph's replay where there are CUDA graphs."""


class StaticRunner(ModelRunner):
    """Runs steps as passes of fixed sizes.

    Args:
        checkpoint: the model.
        num_slots: of sessions, and spare ones.
        max_positions: of each.
        attend: computes attention; None takes the fastest way that there is.
        has_graphs: whether passes are recorded as CUDA graphs; None where the device has them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        num_slots: int,
        max_positions: int,
        attend: Attend | None = None,
        has_graphs: bool | None = None,
    ) -> None:
        super().__init__(checkpoint, num_slots + 1, max_positions)
        self._checkpoint = checkpoint
        self._scratch = num_slots
        self._attend = attend or attention_for(self.device)
        self._has_graphs = self.device.type == "cuda" if has_graphs is None else has_graphs
        self._long_sizes = _sizes_up_to(num_slots + MAX_PIECES, LONG_ROWS)
        self._short_sizes = _sizes_up_to(num_slots, SHORT_ROWS)
        self._largest = PassSize(self._long_sizes[-1], self._short_sizes[-1])
        width = checkpoint.language_model.config.hidden_size
        given = (self._largest, width, checkpoint.dtype)
        self._inputs = _Memory.allocate(_Inputs.layout(*given).num_bytes, self.device)
        results = _Results.layout(*given, checkpoint.word_head is not None)
        self._results = _Memory.allocate(results.num_bytes, self.device)
        mel_shape = (self._largest.long_rows, NUM_MEL_BINS, MEL_FRAMES_PER_CHUNK)
        self._mel = torch.zeros(mel_shape, device=self.device)
        spoken_shape = (self._largest.short_rows, width)
        self._spoken = torch.zeros(spoken_shape, dtype=checkpoint.dtype, device=self.device)
        self._passes: dict[PassSize, _Pass] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._has_graphs else None

    @property
    def sizes(self) -> list[PassSize]:
        """Of all passes that there can be, the largest first."""
        sizes = [PassSize(long, short) for long in self._long_sizes for short in self._short_sizes]
        return sorted((size for size in sizes if size.num_rows), key=_num_positions, reverse=True)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Make a pass of each size, so that none is the first of its kind later."""
        for size in self.sizes:
            made = self._pass(size)
            made.rows.clear()
            self._launch(made, is_heard=size.long_rows > 0, is_given=True)
            # What goes up lies where the next pass's does.
            self._wait()

    @torch.inference_mode()
    def run(self, step: Step) -> StepOutcome:
        """As `ModelRunner`."""
        *earlier, last = self._parts(step)
        # What these hold is overwritten by the next.
        outcomes = [_with_own_features(self._run_part(part)) for part in earlier]
        outcome = self._run_part(last)
        return _joined([*outcomes, outcome]) if outcomes else outcome

    def _parts(self, step: Step) -> Iterator[Step]:
        """Steps that each fit into one pass, one after the other."""
        heard = computed = spoken = 0
        while True:
            most, rest = self._largest, len(step.listening) - heard
            num_heard = min(rest, most.long_rows)
            num_pieces = min(MAX_PIECES, most.long_rows - num_heard)
            part = Step(
                step.listening[heard : heard + num_heard],
                step.chunks[heard : heard + num_heard],
                step.speaking[spoken : spoken + most.short_rows],
                step.pieces[computed : computed + num_pieces],
            )
            yield part
            heard += num_heard
            computed += len(part.pieces)
            spoken += len(part.speaking)
            if (heard, computed, spoken) == tuple(
                map(len, (step.listening, step.pieces, step.speaking))
            ):
                return

    def _run_part(self, step: Step) -> StepOutcome:
        num_long, num_short = len(step.listening) + len(step.pieces), len(step.speaking)
        if not num_long + num_short:
            return StepOutcome(self._no_features, [], [])
        size = PassSize(
            _sizes_up_to(num_long, self._long_sizes)[-1],
            _sizes_up_to(num_short, self._short_sizes)[-1],
        )
        chosen = self._pass(size)
        self._fill(chosen, step)
        is_given = any(piece.features is not None for piece in step.pieces)
        self._launch(chosen, bool(step.listening), is_given, step.speaking)
        return self._outcome(chosen, len(step.listening), num_short)

    def _fill(self, chosen: _Pass, step: Step) -> None:
        rows, size, cache = chosen.rows, chosen.size, self._decoder.cache
        rows.clear()
        num_heard, num_spoken = len(step.listening), len(step.speaking)
        if num_heard:
            heard = slice(0, num_heard)
            tokens = np.array(
                [listening_tokens(self._control, row.token) for row in step.listening]
            )
            rows.put(heard, tokens, *self._placed(step.listening), LISTENING_POSITIONS)
            rows.draw(heard, step.listening)
            features = np.arange(num_heard * FEATURES_PER_CHUNK).reshape(num_heard, -1)
            rows.feature_at[heard, FIRST_FEATURE : FIRST_FEATURE + FEATURES_PER_CHUNK] = features
            rows.heard_slots[heard] = [row.slot for row in step.listening]
            rows.biases[heard] = [row.decision_bias for row in step.listening]
            np.stack(step.chunks, out=rows.audio[heard])
        for number, piece in enumerate(step.pieces):
            row = num_heard + number
            place, count = cache.place(piece.slot), len(piece.tokens)
            rows.put(slice(row, row + 1), piece.tokens, [place], [piece.position], count)
            if piece.features is not None:
                first = (size.long_rows + number) * FEATURES_PER_CHUNK
                where = slice(piece.first_feature, piece.first_feature + FEATURES_PER_CHUNK)
                rows.feature_at[row, where] = np.arange(first, first + FEATURES_PER_CHUNK)
                rows.given[number].copy_(piece.features)
        if num_spoken:
            spoken = slice(size.long_rows, size.long_rows + num_spoken)
            tokens = np.array([[row.token] for row in step.speaking])
            rows.put(spoken, tokens, *self._placed(step.speaking))
            rows.draw(spoken, step.speaking)

    def _placed(self, rows: Sequence[StepRow]) -> tuple[list[int], list[int]]:
        place = self._decoder.cache.place
        return [place(row.slot) for row in rows], [row.position for row in rows]

    def _launch(
        self, chosen: _Pass, is_heard: bool, is_given: bool, speaking: Sequence[StepRow] = ()
    ) -> None:
        ends = chosen.input_layout.ends
        self._inputs.upload(ends["given"] if is_given else ends["audio"])
        if is_heard:
            # Not within the graph: a spectrum's plan is the library's.
            heard = self._log_mel(chosen.inputs.audio, chosen.inputs.heard_slots)
            self._mel[: chosen.size.long_rows].copy_(heard)
        chosen.run()
        top_k = max((int(row.draw[1]) for row in speaking), default=0)
        if top_k > STATIC_TOP_K:
            self._draw_tokens(chosen, self._spoken[: chosen.size.short_rows], top_k)
        ends = chosen.result_layout.ends
        self._results.download(ends["features"] if is_heard else ends["decisions"])

    def _pass(self, size: PassSize) -> _Pass:
        chosen = self._passes.get(size)
        if chosen is None:
            scratch_place = self._decoder.cache.place(self._scratch)
            chosen = _Pass(size, self._checkpoint, self._inputs, self._results, scratch_place)
            chosen.run = self._recorded(chosen)
            self._passes[size] = chosen
        return chosen

    def _recorded(self, chosen: _Pass) -> Callable[[], None]:
        if not self._has_graphs:
            return partial(self._compute, chosen)
        # What loads, compiles or allocates when it is first used does so before it is recorded.
        chosen.rows.clear()
        self._inputs.upload(chosen.input_layout.ends["biases"])
        self._compute(chosen)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._compute(chosen)
        replay: Callable[[], None] = graph.replay
        return replay

    def _compute(self, chosen: _Pass) -> None:
        """Everything of a pass whose launches depend on its size alone."""
        size, inputs, results = chosen.size, chosen.inputs, chosen.results
        embeddings = self._decoder.embed(inputs.tokens)
        if size.long_rows:
            features = self._encoder.encode(self._mel[: size.long_rows])
            results.features.copy_(features)
            table = torch.cat([features, inputs.given]).flatten(0, 1)
            found = table[inputs.feature_at.clamp_min(0)]
            long = embeddings[: size.long_positions]
            long.copy_(torch.where((inputs.feature_at < 0)[:, None], long, found))
        attention = SlotAttention(
            self._decoder.cache,
            size,
            RowTables(*inputs.rows.unbind(0)),
            inputs.stored,
            self._attend,
        )
        hidden, word_logits = self._decode(
            embeddings, attention, inputs.positions, inputs.last, size.long_rows
        )
        if size.long_rows:
            self._draw_decisions(chosen, hidden[: size.long_rows], word_logits)
        if size.short_rows:
            spoken = hidden[size.long_rows :]
            self._spoken[: size.short_rows].copy_(spoken)
            self._draw_tokens(chosen, spoken, STATIC_TOP_K)

    def _draw_decisions(self, chosen: _Pass, hidden: Tensor, word_logits: Tensor | None) -> None:
        temperature, top_k, uniform = chosen.inputs.draws[:, : chosen.size.long_rows]
        logits = self._decision_logits(hidden)
        biased = logits + F.pad(chosen.inputs.biases[:, None], (1, 0))
        drawn = sample(biased, temperature, top_k.long(), logits.shape[1], uniform)
        loudest = self._log_mel.maximum[chosen.inputs.heard_slots]
        chosen.results.decisions.copy_(decision_numbers(drawn, logits, loudest, word_logits))

    def _draw_tokens(self, chosen: _Pass, hidden: Tensor, max_top_k: int) -> None:
        temperature, top_k, uniform = chosen.inputs.draws[:, chosen.size.long_rows :]
        logits = self._decoder.logits(hidden)
        drawn = sample(logits, temperature, top_k.long(), max_top_k, uniform)
        chosen.results.tokens.copy_(spoken_tokens(drawn, hidden))

    def _outcome(self, chosen: _Pass, num_heard: int, num_spoken: int) -> StepOutcome:
        self._wait()
        told = chosen.told
        return StepOutcome(
            told.features[:num_heard],
            self._choices(told.decisions[:num_heard].tolist()),
            said_tokens(told.tokens[:num_spoken]),
        )

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


def runner_for(checkpoint: Checkpoint, num_slots: int, max_positions: int) -> ModelRunner:
    """What serves a checkpoint's device best: CUDA graphs of fixed sizes, or the rows there are.

    On a CPU a step costs what its rows cost: there a pass that is filled up would cost more.
    """
    kind = StaticRunner if checkpoint.device.type == "cuda" else ModelRunner
    return kind(checkpoint, num_slots, max_positions)


def _sizes_up_to(count: int, sizes: Sequence[int]) -> list[int]:
    """Those below `count`, and the first that it fits into, if any."""
    return [size for number, size in enumerate(sizes) if not number or sizes[number - 1] < count]


def _num_positions(size: PassSize) -> int:
    return size.num_positions


def _with_own_features(outcome: StepOutcome) -> StepOutcome:
    return StepOutcome(outcome.features.clone(), outcome.choices, outcome.tokens)


def _joined(outcomes: Sequence[StepOutcome]) -> StepOutcome:
    return StepOutcome(
        torch.cat([outcome.features for outcome in outcomes]),
        [choice for outcome in outcomes for choice in outcome.choices],
        [token for outcome in outcomes for token in outcome.tokens],
    )
