"""What a forward pass multiplies with: weights that are read together are laid together."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from backend.model.quantised import QuantisedEmbedding, QuantisedLinear
from backend.model.residual import add_scaled

QKV = ("qkv_proj", ("q_proj", "k_proj", "v_proj"))
GATE_UP = ("gate_up_proj", ("gate_proj", "up_proj"))
"""Modules that read the same input, and what they are called as one."""


class Projection(Protocol):
    """A linear map, with its bias where it has one. Also: `QuantisedLinear`."""

    def __call__(self, inputs: Tensor, /) -> Tensor:
        """`[rows, inputs]` to `[rows, outputs]`."""

    def add_to(self, total: Tensor, inputs: Tensor) -> None:
        """Add to `[rows, outputs]` what comes of `[rows, inputs]`; both may be widened."""

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Some rows of the weights, `[numbers, inputs]`."""


LARGEST_COPY_BYTES = 4 * 2**20
"""A larger weight is read where it is, so that no large model lies in memory twice."""


class DenseProjection:
    """With weights `[outputs, inputs]` in the number format of what they are multiplied with."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight.T
        """`[inputs, outputs]`."""
        if weight.device.type == "cpu" and weight.nbytes <= LARGEST_COPY_BYTES:
            # Laid out like this, products of few rows take three quarters of the time, of one half.
            self.weight = self.weight.contiguous()
        self._bias = bias

    def __call__(self, inputs: Tensor, /) -> Tensor:
        """As `Projection` says."""
        if self._bias is None:
            return inputs.mm(self.weight)
        return torch.addmm(self._bias, inputs, self.weight)

    def add_to(self, total: Tensor, inputs: Tensor) -> None:
        """As `Projection` says."""
        if total.dtype == self.weight.dtype:
            total.addmm_(inputs, self.weight)
        else:
            add_scaled(total, inputs, self.weight.dtype, lambda scaled: scaled.mm(self.weight))
        if self._bias is not None:
            total.add_(self._bias)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """As `Projection` says."""
        return self.weight.T[list(numbers)]


def projection(linear: nn.Linear | QuantisedLinear) -> Projection:
    """What a model's module does to its input, without a copy."""
    if isinstance(linear, QuantisedLinear):
        return linear
    bias = None if linear.bias is None else linear.bias.detach()
    return DenseProjection(linear.weight.detach(), bias)


def joined_projection(owner: nn.Module, joined: str, parts: Sequence[str]) -> Projection:
    """What several of a model's modules do to the same input, as one product.

    Args:
        owner: whose modules they are.
        joined: what they are called as one, which they are where weights are quantised.
        parts: what they are called otherwise.
    """
    linear = getattr(owner, joined, None)
    if isinstance(linear, QuantisedLinear):
        return linear
    linears: list[nn.Linear] = [getattr(owner, part) for part in parts]
    weight = joined_rows([linear.weight for linear in linears])
    if all(linear.bias is None for linear in linears):
        return DenseProjection(weight)
    biases = [
        torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias.detach()
        for linear in linears
    ]
    return DenseProjection(weight, torch.cat(biases))


def joined_layout(owner: str, joined: str, parts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What modules of `owner` are called as one, and what they are called otherwise, in full."""
    return {f"{owner}.{joined}": tuple(f"{owner}.{part}" for part in parts)}


def hollow(model: nn.Module, names: Iterable[str]) -> None:
    """Take modules out of a model, before their weights take memory."""
    for name in names:
        owner, _, own_name = name.rpartition(".")
        delattr(model.get_submodule(owner), own_name)


def num_weights(model: nn.Module) -> int:
    """How many numbers a model consists of."""
    return sum(parameter.numel() for parameter in model.parameters()) + sum(
        module.num_weights
        for module in model.modules()
        if isinstance(module, QuantisedEmbedding | QuantisedLinear)
    )


def joined_rows(parameters: Sequence[Tensor]) -> Tensor:
    """The rows of several parameters behind one another, so that one product takes them all.

    The parameters become views of them, so that nothing is held twice; where they are that
    already, nothing is done.
    """
    parts = [parameter.data for parameter in parameters]
    first = parts[0]
    if all(_follows(second, before) for before, second in pairwise(parts)):
        num_rows = sum(len(part) for part in parts)
        return first.as_strided((num_rows, *first.shape[1:]), first.stride())
    joined = torch.cat(parts)
    for parameter, rows in zip(
        parameters, joined.split([len(part) for part in parts]), strict=True
    ):
        parameter.data = rows
    return joined


def _follows(second: Tensor, first: Tensor) -> bool:
    is_one_storage = second.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
    return is_one_storage and second.data_ptr() == first.data_ptr() + first.nbytes
