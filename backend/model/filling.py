"""Fill a model with a checkpoint's weights, row by row, so that nothing is held twice."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoderConfig,
)

from backend.config import Bits
from backend.model.audio_tower import AudioTower, empty_audio_tower, quantised_tower_layout
from backend.model.language_model import (
    LanguageModelConfig,
    empty_language_model,
    quantised_layout,
)
from backend.model.quantised import Matrix, QuantisedEmbedding, QuantisedLinear

_PIECE_NUMBERS = 2**22
"""So many are read at once."""

ReadRows = Callable[[str, int, int], Tensor]
"""Rows of a parameter, by its name: from a first one to the one before a last one."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where weights go, and as what."""

    device: torch.device
    dtype: torch.dtype
    bits: Bits


class Filling:
    """Fills one model.

    Args:
        shapes: its parameters, by name, on any device; also those of modules that it lacks.
        read: gives their rows.
        target: where they go.
    """

    def __init__(self, shapes: Mapping[str, Tensor], read: ReadRows, target: Target) -> None:
        self._shapes = shapes
        self._read = read
        self.target = target

    @torch.no_grad()
    def fill(self, model: nn.Module) -> None:
        """Read the parameters that a model has."""
        for name, parameter in model.named_parameters():
            if name in self._shapes:
                start = 0
                for rows in self._rows(name):
                    parameter[start : start + len(rows)] = rows
                    start += len(rows)

    @torch.no_grad()
    def embedding(self, name: str, bits: Bits) -> QuantisedEmbedding:
        """A quantised module in the place of an embedding."""
        target = self.target
        return QuantisedEmbedding(self._matrix([name]), bits, target.device, target.dtype)

    @torch.no_grad()
    def linear(
        self, parts: Sequence[str], bits: Bits, exact: Iterable[int] = ()
    ) -> QuantisedLinear:
        """A quantised module in the place of linear ones that read the same input.

        Args:
            parts: their names.
            bits: of a weight.
            exact: rows of the first one that are wanted as they are as well.
        """
        return QuantisedLinear(
            self._matrix(parts),
            bits,
            self.target.device,
            self.target.dtype,
            self._bias(parts),
            {row: self._read(f"{parts[0]}.weight", row, row + 1)[0] for row in exact},
        )

    def _matrix(self, parts: Sequence[str]) -> Matrix:
        names = [f"{part}.weight" for part in parts]
        outputs = sum(len(self._shapes[name]) for name in names)
        rows = chain.from_iterable(self._rows(name) for name in names)
        return Matrix(outputs, self._shapes[names[0]].shape[1], rows)

    def _bias(self, parts: Sequence[str]) -> Tensor | None:
        biases = []
        for part in parts:
            size = len(self._shapes[f"{part}.weight"])
            if (name := f"{part}.bias") in self._shapes:
                biases.append(self._read(name, 0, size).float())
            else:
                biases.append(torch.zeros(size))
        bias = torch.cat(biases)
        return bias if bias.any() else None

    def _rows(self, name: str) -> Iterator[Tensor]:
        shape = self._shapes[name]
        step = max(1, _PIECE_NUMBERS // max(1, shape[0].numel()))
        for start in range(0, len(shape), step):
            yield self._read(name, start, min(start + step, len(shape)))


def filled_audio_tower(config: Qwen2_5OmniAudioEncoderConfig, filling: Filling) -> AudioTower:
    """A tower with weights in the target's format."""
    to = filling.target
    layout = quantised_tower_layout(config.encoder_layers) if to.bits < Bits.SIXTEEN else {}
    replaced = chain.from_iterable(layout.values())
    tower = empty_audio_tower(config, device=to.device, dtype=to.dtype, without=replaced)
    filling.fill(tower.encoder)
    for name, parts in layout.items():
        tower.encoder.set_submodule(name, filling.linear(parts, to.bits.of_the_rest))
    return tower.requires_grad_(False)


def filled_language_model(
    config: LanguageModelConfig, filling: Filling, decisions: Iterable[int]
) -> Qwen2ForCausalLM:
    """A language model with weights in the target's format; decisions' rows of its head stay."""
    to = filling.target
    layout = quantised_layout(config.n_layer) if to.bits < Bits.SIXTEEN else {}
    replaced = chain.from_iterable(layout.values())
    model = empty_language_model(config, device=to.device, dtype=to.dtype, without=replaced)
    filling.fill(model)
    for name, parts in layout.items():
        module: nn.Module
        match name:
            case "model.embed_tokens":
                module = filling.embedding(name, to.bits.of_the_rest)
            case "lm_head":
                module = filling.linear(parts, to.bits.of_the_rest, exact=decisions)
            case _:
                module = filling.linear(parts, to.bits)
        model.set_submodule(name, module)
    return model.requires_grad_(False)
