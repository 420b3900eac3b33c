"""Forward passes: the only part of the engine that touches tensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.config import FEATURES_PER_CHUNK, LISTENING_POSITIONS, SamplingConfig
from backend.engine.context import Piece
from backend.engine.sampler import sample
from backend.engine.session import PastChunk
from backend.features import StreamingLogMel
from backend.model.audio_tower import ChunkEncoder
from backend.model.checkpoint import Checkpoint
from backend.model.decoder import Decoder, LayerReader
from backend.model.device import choose_cuda_kernels
from backend.model.kv_cache import Attention, CacheRow, RowAttention
from backend.model.weights import num_weights
from backend.protocol import listening_tokens

SMALL_MODEL_PARAMETERS = 30_000_000
"""A step of a smaller model is too short to be worth sharing between threads."""

FIRST_FEATURE = 2
"""Of a listening row: behind the previous token and AUDIO_BEGIN."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """One session's part in a step."""

    slot: int
    position: int
    """Where the step's first token goes."""
    token: int
    """The newest token, which is not in the cache yet."""
    sampling: SamplingConfig
    decision_bias: float
    uniform: float

    @property
    def draw(self) -> tuple[float, float, float]:
        """Temperature, top-k and a number in [0, 1): what `sample` is given."""
        sampling = self.sampling
        if sampling.temperature == 0:
            return 1.0, 1.0, self.uniform
        return sampling.temperature, sampling.top_k, self.uniform


@dataclass(frozen=True, slots=True)
class Step:
    """What one forward pass computes."""

    listening: Sequence[StepRow] = ()
    chunks: Sequence[npt.NDArray[np.float32]] = ()
    """The newest chunk `[6400]` of each of those."""
    speaking: Sequence[StepRow] = ()
    pieces: Sequence[Piece] = ()
    """Of contexts that are computed anew; those of one slot in their order."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision: KEEP_SILENCE or TEXT_BEGIN, and how likely the latter was without a bias."""

    token: int
    speak_probability: float
    logits: tuple[float, float]
    """Of both, in this order, without a bias."""
    pieces: Sequence[int] = ()
    """That each of the chunk's features completes; empty where there is no word head."""
    loudest: float = -math.inf
    """The largest of all that was heard so far, as log-mel."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of a step."""

    features: Tensor
    """`[listening, 10, width]`, of the chunks that were heard; they hold until the next step."""
    choices: Sequence[Choice]
    """Of those that listened."""
    tokens: Sequence[int | None]
    """Of those that spoke; None where the numbers broke down."""


class ModelRunner:
    """Runs steps over the slots of one cache."""

    def __init__(self, checkpoint: Checkpoint, num_slots: int, max_positions: int) -> None:
        self.device = checkpoint.device
        if self.device.type == "cuda":
            choose_cuda_kernels()
        self._control = checkpoint.control_tokens
        self._num_parameters = num_weights(checkpoint.language_model)
        self._encoder = ChunkEncoder(checkpoint.audio_tower)
        self._decoder = Decoder(
            checkpoint.language_model, checkpoint.sliding_window, num_slots, max_positions
        )
        self._word_head = checkpoint.word_head
        self._no_features = torch.empty(0, device=self.device)
        self._log_mel = StreamingLogMel(num_slots).to(self.device)
        # A decision compares two logits, so only two rows of the head are needed for it.
        self._decision_tokens = [self._control.keep_silence, self._control.text_begin]
        self._decision_head = self._decoder.head_rows(self._decision_tokens).float()

    def limit_threads(self, num_threads: int | None) -> None:
        """Set how many CPU threads the calling thread's steps use; see `EngineConfig`."""
        if num_threads is None and self._num_parameters < SMALL_MODEL_PARAMETERS:
            num_threads = 1
        if num_threads is not None:
            torch.set_num_threads(num_threads)

    @torch.inference_mode()
    def forget(self, slot: int) -> None:
        """Let what `slot` hears next be the first that it hears."""
        self._log_mel.reset(slot)

    def exchange(self, slot: int, other: int) -> None:
        """Let each of two slots have the other's context; what was heard last stays."""
        self._decoder.cache.exchange(slot, other)

    def warm_up(self) -> None:
        """Do once what is slow when it is done first."""

    def is_usable(self) -> bool:
        """Whether the device still computes: after some faults a GPU does nothing any more."""
        try:
            torch.ones(1, device=self.device).item()
        except torch.OutOfMemoryError:
            return True
        except RuntimeError:
            return False
        return True

    @torch.inference_mode()
    def run(self, step: Step) -> StepOutcome:
        """Hear chunks and decide, draw the next tokens of replies, and compute pieces."""
        features = self._no_features
        if step.listening:
            features = self.encode([row.slot for row in step.listening], step.chunks)
        elif not (step.speaking or step.pieces):
            return StepOutcome(features, [], [])
        hidden, word_logits = self._forward(step, features)
        num_listening = len(step.listening)
        return StepOutcome(
            features,
            self._decide(step.listening, hidden[:num_listening], word_logits),
            self._speak(step.speaking, hidden[num_listening:]),
        )

    @torch.inference_mode()
    def encode(self, slots: Sequence[int], chunks: Sequence[npt.NDArray[np.float32]]) -> Tensor:
        """Features `[rows, 10, width]` of the newest chunk `[6400]` of several sessions."""
        audio = self._upload(torch.from_numpy(np.stack(chunks)))
        log_mel = self._log_mel(audio, self._upload(torch.tensor(slots)))
        return self._encoder.encode(log_mel)

    @torch.inference_mode()
    def recall(self, slot: int, chunks: Sequence[PastChunk]) -> Tensor:
        """Features `[rows, 10, width]` of the next chunks that a slot's session heard elsewhere."""
        slots, heard = self._upload(torch.tensor([slot])), []
        for chunk in chunks:
            if chunk.number:
                self._log_mel.maximum[slot] = chunk.loudest
            heard.append(self._log_mel(self._upload(torch.from_numpy(chunk.samples[None])), slots))
        return self._encoder.encode(torch.cat(heard)).clone()

    def _forward(self, step: Step, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """The last hidden states `[listening and speaking rows, width]`; see `_decode`."""
        tokens: list[int] = []
        rows: list[CacheRow] = []
        last: list[int] = []
        for row in step.listening:
            tokens += listening_tokens(self._control, row.token)
            rows.append(CacheRow(row.slot, row.position, LISTENING_POSITIONS))
            last.append(len(tokens) - 1)
        for row in step.speaking:
            tokens.append(row.token)
            rows.append(CacheRow(row.slot, row.position, 1))
            last.append(len(tokens) - 1)
        heard = []
        for piece in step.pieces:
            if piece.features is not None:
                heard.append((len(tokens) + piece.first_feature, piece.features))
            tokens += piece.tokens
            rows.append(CacheRow(piece.slot, piece.position, len(piece.tokens)))
        positions = [p for row in rows for p in range(row.start, row.end)]
        numbers = self._upload(torch.tensor(tokens + positions + last, dtype=torch.int64))
        ids, places, ends = numbers.split([len(tokens), len(positions), len(last)])
        embeddings = self._decoder.embed(ids)
        if step.listening:
            num_heard = len(step.listening) * LISTENING_POSITIONS
            listening = embeddings[:num_heard].unflatten(0, (-1, LISTENING_POSITIONS))
            listening[:, FIRST_FEATURE : FIRST_FEATURE + FEATURES_PER_CHUNK] = features
        for start, piece_features in heard:
            embeddings[start : start + FEATURES_PER_CHUNK] = piece_features
        attention = RowAttention(self._decoder.cache, rows)
        return self._decode(embeddings, attention, places, ends, len(step.listening))

    def _decode(
        self,
        embeddings: Tensor,
        attention: Attention,
        positions: Tensor,
        last: Tensor,
        num_listening: int,
    ) -> tuple[Tensor, Tensor | None]:
        """As the decoder, and what the word head makes of the rows that listen.

        That is `[rows, 10, pieces + 1]`, or None without a head.
        """
        head = self._word_head
        if head is None or not num_listening:
            return self._decoder.forward(embeddings, attention, positions, last), None
        word_logits: list[Tensor] = []

        def read(hidden: Tensor) -> None:
            of_rows = hidden[: num_listening * LISTENING_POSITIONS]
            of_rows = of_rows.view(num_listening, LISTENING_POSITIONS, -1)
            word_logits.append(head(of_rows[:, FIRST_FEATURE : FIRST_FEATURE + FEATURES_PER_CHUNK]))

        reader = LayerReader(head.layer, read)
        hidden = self._decoder.forward(embeddings, attention, positions, last, reader)
        return hidden, word_logits[0]

    def _decide(
        self, rows: Sequence[StepRow], hidden: Tensor, word_logits: Tensor | None
    ) -> list[Choice]:
        if not rows:
            return []
        logits = self._decision_logits(hidden)
        biases = self._upload(torch.tensor([[0.0, row.decision_bias] for row in rows]))
        chosen = self._draw(rows, logits + biases)
        loudest = self._log_mel.maximum[self._upload(torch.tensor([row.slot for row in rows]))]
        # A copy to the host, for which the model has to be done.
        return self._choices(decision_numbers(chosen, logits, loudest, word_logits).tolist())

    def _decision_logits(self, hidden: Tensor) -> Tensor:
        """Of KEEP_SILENCE and TEXT_BEGIN, `[rows, 2]`, without a bias."""
        logits: Tensor = hidden.float() @ self._decision_head.T
        return logits

    def _choices(self, numbers: Sequence[Sequence[float]]) -> list[Choice]:
        return [
            Choice(
                self._decision_tokens[int(choice)],
                probability,
                (silence, speech),
                [int(piece) for piece in pieces],
                loudest,
            )
            for choice, probability, silence, speech, loudest, *pieces in numbers
        ]

    def _speak(self, rows: Sequence[StepRow], hidden: Tensor) -> list[int | None]:
        if not rows:
            return []
        drawn = self._draw(rows, self._decoder.logits(hidden))
        # As in a decision.
        return said_tokens(spoken_tokens(drawn, hidden))

    def _upload(self, tensor: Tensor) -> Tensor:
        """To the model's device; to a CUDA GPU from pinned memory, so that nothing waits for it."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _draw(self, rows: Sequence[StepRow], logits: Tensor) -> Tensor:
        draws = [row.draw for row in rows]
        max_top_k = max(int(top_k) for _, top_k, _ in draws)
        temperature, top_k, uniform = self._upload(torch.tensor(draws)).unbind(dim=1)
        return sample(logits, temperature, top_k.long(), max_top_k, uniform)


def decision_numbers(
    chosen: Tensor, logits: Tensor, loudest: Tensor, word_logits: Tensor | None
) -> Tensor:
    """What is told of decisions `[rows]`, `[rows, 5]` or `[rows, 15]`.

    Which it is, how likely speech was, both logits, the largest of what was heard, and the
    likeliest piece of each feature.
    """
    probabilities = logits.softmax(dim=-1)[:, 1:]
    numbers = [chosen.float()[:, None], probabilities, logits, loudest[:, None]]
    if word_logits is not None:
        # Ids are small enough for a float to hold, and so one copy to the host tells all.
        numbers.append(word_logits.argmax(-1).float())
    return torch.cat(numbers, 1)


def spoken_tokens(drawn: Tensor, hidden: Tensor) -> Tensor:
    """Tokens `[rows]`, and -1 where the numbers that they come from broke down."""
    return drawn.masked_fill(hidden.isnan().any(dim=-1), -1)


def said_tokens(tokens: Tensor) -> list[int | None]:
    """The same on the host, with None for -1."""
    return [None if token < 0 else token for token in tokens.tolist()]
