"""Forward passes: the only part of the engine that touches tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.config import FEATURES_PER_CHUNK, LISTENING_POSITIONS, SamplingConfig
from backend.engine.sampler import sample
from backend.features import StreamingLogMel
from backend.model.checkpoint import Checkpoint
from backend.model.kv_cache import (
    ATTENTION_NAME,
    SlotCache,
    StepShape,
    packed_mask,
    register_packed_attention,
)
from backend.protocol import listening_tokens

PREFILL_POSITIONS = 512
"""Longest piece of a context that is computed at once."""


SMALL_MODEL_PARAMETERS = 30_000_000
"""A step of a smaller model is too short to be worth sharing between threads."""


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


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision: KEEP_SILENCE or TEXT_BEGIN, and how likely the latter was without a bias."""

    token: int
    speak_probability: float
    logits: tuple[float, float]
    """Of both, in this order, without a bias."""


class ModelRunner:
    """Runs listening steps, speaking steps and prefills over the slots of one cache."""

    def __init__(self, checkpoint: Checkpoint, num_slots: int, max_positions: int) -> None:
        self.device = checkpoint.device
        self._control = checkpoint.control_tokens
        self._tower = checkpoint.audio_tower
        self._language_model = checkpoint.language_model
        register_packed_attention()
        self._language_model.set_attn_implementation(ATTENTION_NAME)
        config = self._language_model.config
        self._num_groups = config.num_attention_heads // config.num_key_value_heads
        self._sliding_window = checkpoint.sliding_window
        self._dtype = checkpoint.dtype
        self._cache = SlotCache(
            config, num_slots, max_positions, LISTENING_POSITIONS, self._dtype, self.device
        )
        self._max_positions = max_positions
        self._log_mel = StreamingLogMel(num_slots).to(self.device)
        self._step_offsets = torch.arange(LISTENING_POSITIONS, device=self.device)
        # A decision compares two logits, so only two rows of the head are needed for it.
        self._decision_tokens = [self._control.keep_silence, self._control.text_begin]
        self._decision_head = self._language_model.lm_head.weight[self._decision_tokens].float()

    def limit_threads(self, num_threads: int | None) -> None:
        """Set how many CPU threads the calling thread's steps use; see `EngineConfig`."""
        num_parameters = sum(p.numel() for p in self._language_model.parameters())
        if num_threads is None and num_parameters < SMALL_MODEL_PARAMETERS:
            num_threads = 1
        if num_threads is not None:
            torch.set_num_threads(num_threads)

    @torch.inference_mode()
    def wipe(self, slot: int) -> None:
        """Forget all that `slot` holds."""
        self._cache.wipe(slot)
        self._log_mel.reset(slot)

    @torch.inference_mode()
    def prefill(
        self,
        slot: int,
        tokens: Sequence[int],
        feature_starts: Sequence[int],
        features: Sequence[Tensor],
    ) -> None:
        """Write a context from its first position on.

        Args:
            slot: the session's row.
            tokens: the sequence, with PAD where features go.
            feature_starts: for each chunk, where in the sequence its first feature goes.
            features: for each chunk, its `[10, width]`.
        """
        embeddings = self._embed(self._upload(torch.tensor(tokens)))
        if features:
            starts = self._upload(torch.tensor(feature_starts))
            places = starts[:, None] + self._step_offsets[:FEATURES_PER_CHUNK]
            embeddings[places] = torch.stack(list(features)).to(embeddings.dtype)
        rows = slice(slot, slot + 1)
        for start in range(0, len(tokens), PREFILL_POSITIONS):
            end = min(start + PREFILL_POSITIONS, len(tokens))
            positions = torch.arange(start, end, device=self.device)[None]
            self._forward(rows, embeddings[None, start:end], positions, start, end - 1)

    @torch.inference_mode()
    def encode(self, slots: Sequence[int], chunks: Sequence[npt.NDArray[np.float32]]) -> Tensor:
        """Features `[rows, 10, width]` of the newest chunk `[6400]` of several sessions."""
        audio = self._upload(torch.from_numpy(np.stack(chunks)))
        slot_ids = self._upload(torch.tensor(slots))
        features: Tensor = self._tower(self._log_mel(audio, slot_ids)).to(self._dtype)
        return features

    @torch.inference_mode()
    def decide(self, rows: Sequence[StepRow], features: Tensor) -> list[Choice]:
        """Let several sessions hear their newest chunk's features, and decide."""
        ids = torch.tensor([listening_tokens(self._control, row.token) for row in rows])
        embeddings = self._embed(self._upload(ids))
        embeddings[:, 2 : 2 + FEATURES_PER_CHUNK] = features
        hidden = self._step(rows, embeddings)
        logits = hidden.float() @ self._decision_head.T
        biases = self._upload(torch.tensor([[0.0, row.decision_bias] for row in rows]))
        chosen = self._draw(rows, logits + biases)
        probabilities = logits.softmax(dim=-1)[:, 1]
        # The step's one copy to the host.
        outcome = torch.cat([chosen.float()[:, None], probabilities[:, None], logits], 1).tolist()
        return [
            Choice(self._decision_tokens[int(choice)], probability, (silence, speech))
            for choice, probability, silence, speech in outcome
        ]

    @torch.inference_mode()
    def speak(self, rows: Sequence[StepRow]) -> list[int | None]:
        """Draw the next token of each of several replies; None where the numbers broke down."""
        ids = self._upload(torch.tensor([[row.token] for row in rows]))
        hidden = self._step(rows, self._embed(ids))
        tokens = self._draw(rows, self._language_model.lm_head(hidden))
        is_broken = hidden.isnan().any(dim=-1)
        # The step's one copy to the host.
        outcome = tokens.masked_fill(is_broken, -1).tolist()
        return [None if token < 0 else token for token in outcome]

    def _upload(self, tensor: Tensor) -> Tensor:
        """To the model's device; from pinned memory, so that nothing waits for the copy."""
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _embed(self, ids: Tensor) -> Tensor:
        embeddings: Tensor = self._language_model.model.embed_tokens(ids)
        return embeddings

    def _step(self, rows: Sequence[StepRow], embeddings: Tensor) -> Tensor:
        """Run `[rows, steps, width]` embeddings; returns the last position's hidden state.

        The pass covers the contiguous range of slots that holds all rows; slots between them that
        have no part in it compute on zeros and write to the scratch positions.
        """
        slots = [row.slot for row in rows]
        first, steps = min(slots), embeddings.shape[1]
        num_slots = max(slots) + 1 - first
        starts = torch.full((num_slots,), self._max_positions)
        members = torch.tensor(slots) - first
        starts[members] = torch.tensor([row.position for row in rows])
        members = self._upload(members)
        padded = embeddings.new_zeros((num_slots, *embeddings.shape[1:]))
        padded[members] = embeddings
        positions = self._upload(starts)[:, None] + self._step_offsets[:steps]
        hidden = self._forward(
            slice(first, first + num_slots),
            padded,
            positions,
            first_position=min(row.position for row in rows),
            last_position=max(row.position for row in rows) + steps - 1,
        )
        return hidden[members, -1]

    def _forward(
        self,
        slots: slice,
        embeddings: Tensor,
        positions: Tensor,
        first_position: int,
        last_position: int,
    ) -> Tensor:
        keys = self._cache.keys_for(first_position, last_position, self._sliding_window)
        self._cache.begin_step(StepShape(slots, positions, keys))
        mask = packed_mask(positions, keys, self._sliding_window, self._num_groups, self._dtype)
        output = self._language_model.model(
            inputs_embeds=embeddings,
            attention_mask={"full_attention": mask},
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _draw(self, rows: Sequence[StepRow], logits: Tensor) -> Tensor:
        is_greedy = [row.sampling.temperature == 0 for row in rows]
        top_k = [1 if g else r.sampling.top_k for g, r in zip(is_greedy, rows, strict=True)]
        numbers = torch.tensor(
            [
                [1.0 if g else r.sampling.temperature, k, r.uniform]
                for g, k, r in zip(is_greedy, top_k, rows, strict=True)
            ]
        )
        temperature, per_row_top_k, uniform = self._upload(numbers).unbind(dim=1)
        return sample(logits, temperature, per_row_top_k.long(), max(top_k), uniform)
