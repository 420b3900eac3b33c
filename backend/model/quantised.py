"""Weights of 8 or 4 bits: blocks of a row that share a scale, and products with them.

On a CPU products are ONNX Runtime's, on a CUDA GPU that has bfloat16 those with 4 bits are torch's.
Where neither is to be had, weights are widened for each product, which saves memory alone.
"""

import logging
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.config import BLOCK, Bits
from backend.model.residual import add_scaled

logger = logging.getLogger(__name__)

_PIECE_WEIGHTS = 2**20
"""So many are quantised at once, and so take memory in full precision."""
_WIDENED_WEIGHTS = 2**25
"""So many are widened at once."""
_SMALLEST_SCALE = 1e-30
_TORCH_INNER_TILES = 8
_TORCH_INPUTS = 16 * _TORCH_INNER_TILES
"""Torch's product with 4 bits wants inputs in such multiples, and outputs in those of 8."""
_TORCH_OUTPUTS = 8


class Quantised:
    """A matrix `[outputs, inputs]` in blocks, to be filled row by row.

    As in llama.cpp's Q4_0 and Q8_0, the weight furthest from 0 decides a block's scale, and is the
    most negative number that there is: https://github.com/ggml-org/llama.cpp/pull/1508.
    """

    def __init__(self, outputs: int, inputs: int, bits: Bits, device: torch.device) -> None:
        self.outputs, self.inputs, self.bits = outputs, inputs, bits
        self.num_blocks = -(-inputs // BLOCK)
        self.codes = _bytes((outputs, self.num_blocks, BLOCK * bits // 8), device)
        """`[outputs, blocks, bytes]`, half the range above the number; with 4 bits the first of two
        is in the lower half of their byte."""
        self.scales = torch.empty(outputs, self.num_blocks, device=device)
        """`[outputs, blocks]` float32."""

    @property
    def middle(self) -> int:
        """What stands for 0."""
        return 1 << self.bits - 1

    def fill(self, start: int, rows: Tensor) -> None:
        """Take over rows, from `start` on, in any number format and from any device."""
        for piece in rows.split(max(1, _PIECE_WEIGHTS // self.inputs)):
            end = start + len(piece)
            values = piece.to(self.scales.device, torch.float32)
            padding = self.num_blocks * BLOCK - self.inputs
            blocks = (F.pad(values, (0, padding)) if padding else values).unflatten(1, (-1, BLOCK))
            least, most = blocks.amin(2, keepdim=True), blocks.amax(2, keepdim=True)
            scales = torch.where(most > -least, most, least) / -self.middle
            # What is smaller is 0: nothing can be divided by it.
            steps = torch.where(scales.abs() < _SMALLEST_SCALE, 0, 1 / scales)
            numbers = (blocks * steps).add_(self.middle).round_().clamp_(max=2 * self.middle - 1)
            codes = numbers.to(torch.uint8)
            if self.bits == Bits.FOUR:
                codes = codes[..., 0::2] | codes[..., 1::2] << 4
            self.codes[start:end], self.scales[start:end] = codes, scales[..., 0]
            start = end

    def widened(self, rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows as numbers `[rows, inputs]`."""
        codes, scales = self.codes[rows], self.scales[rows].unsqueeze(2).to(dtype)
        if self.bits == Bits.FOUR:
            codes = torch.stack((codes & 15, codes >> 4), dim=3).flatten(2)
        # Whole numbers up to 128 are exact in every number format.
        return (codes.to(dtype).sub_(self.middle) * scales).flatten(1)[:, : self.inputs]


def _bytes(shape: tuple[int, ...], device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(shape, dtype=torch.uint8, device=device)
    # Mapped by itself, as it is given back soon: the heap would keep it.
    place = mmap.mmap(-1, int(np.prod(shape)))
    return torch.from_numpy(np.frombuffer(place, np.uint8).reshape(shape))


class Product(Protocol):
    """Inputs `[rows, inputs]` to `[rows, outputs]`, in the inputs' number format."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """The product."""


class TorchProduct:
    """Torch's with 4 bits, for a CUDA GPU and bfloat16."""

    def __init__(self, weights: Quantised) -> None:
        # Torch has the first of two numbers in the upper half.
        swapped = weights.codes << 4 | weights.codes >> 4
        self._codes = torch.ops.aten._convert_weight_to_int4pack(
            swapped.flatten(1), _TORCH_INNER_TILES
        )
        scales = weights.scales.T.to(torch.bfloat16)
        self._scales_and_zeros = torch.stack((scales, torch.zeros_like(scales)), dim=2).contiguous()

    def __call__(self, inputs: Tensor) -> Tensor:
        """As `Product` says."""
        outputs: Tensor = torch.ops.aten._weight_int4pack_mm(
            inputs, self._codes, BLOCK, self._scales_and_zeros
        )
        return outputs

    @staticmethod
    def is_for(weights: Quantised, dtype: torch.dtype) -> bool:
        """Whether there is such a product for them here."""
        device = weights.codes.device
        return (
            weights.bits == Bits.FOUR
            and device.type == "cuda"
            and dtype == torch.bfloat16
            and weights.inputs % _TORCH_INPUTS == 0
            and weights.outputs % _TORCH_OUTPUTS == 0
            and _multiplies(device)
        )


@cache
def _multiplies(device: torch.device) -> bool:
    """Whether torch's product with 4 bits says the same as weights that are widened."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    generator = torch.Generator(device).manual_seed(0)
    weights = Quantised(_TORCH_OUTPUTS, _TORCH_INPUTS, Bits.FOUR, device)
    shape = (_TORCH_OUTPUTS, _TORCH_INPUTS)
    weights.fill(0, torch.randn(shape, generator=generator, device=device))
    inputs = torch.randn(shape, generator=generator, device=device).to(torch.bfloat16)
    try:
        found, expected = TorchProduct(weights)(inputs), WidenedProduct(weights)(inputs)
    except (RuntimeError, NotImplementedError) as error:
        logger.warning("torch's product with 4 bits cannot be used, a slower one is: %s", error)
        return False
    if not torch.allclose(found, expected, atol=0.25, rtol=0.05):
        logger.warning("torch's product with 4 bits is wrong on this GPU, a slower one is used")
        return False
    return True


class WidenedProduct:
    """The plain one, for any device and number format: a part of the weights is widened at once."""

    def __init__(self, weights: Quantised) -> None:
        self._weights = weights
        self._num_rows = max(1, _WIDENED_WEIGHTS // weights.inputs)

    def __call__(self, inputs: Tensor) -> Tensor:
        """As `Product` says."""
        weights = self._weights
        parts = [
            inputs @ weights.widened(slice(start, start + self._num_rows), inputs.dtype).T
            for start in range(0, weights.outputs, self._num_rows)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _product(weights: Quantised, dtype: torch.dtype) -> Product:
    """The best that there is for these weights and inputs of a number format."""
    if weights.codes.device.type == "cpu":
        # Imported only now: a GPU needs none of it.
        from backend.model.runtime_product import RuntimeProduct

        return RuntimeProduct(weights)
    return TorchProduct(weights) if TorchProduct.is_for(weights, dtype) else WidenedProduct(weights)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix that is being read from a checkpoint's files."""

    outputs: int
    inputs: int
    rows: Iterable[Tensor]
    """All of them, some at a time."""

    def quantised(self, bits: Bits, device: torch.device) -> Quantised:
        """Read it, and keep no more than that."""
        weights = Quantised(self.outputs, self.inputs, bits, device)
        start = 0
        for rows in self.rows:
            weights.fill(start, rows)
            start += len(rows)
        assert start == self.outputs, f"expected {self.outputs} rows, got {start}"
        return weights


class QuantisedLinear(nn.Module):
    """Stands in a model for one `nn.Linear`, or for several that read the same input.

    Args:
        matrix: the weights.
        bits: of a weight.
        device: where they are to be.
        dtype: of inputs and outputs.
        bias: `[outputs]`, or None.
        exact_rows: some rows as they were, `[inputs]` each, by their number.
    """

    def __init__(
        self,
        matrix: Matrix,
        bits: Bits,
        device: torch.device,
        dtype: torch.dtype,
        bias: Tensor | None = None,
        exact_rows: Mapping[int, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.num_weights = matrix.outputs * matrix.inputs
        self._dtype = dtype
        self.bias = None if bias is None else nn.Parameter(bias.to(device, dtype), False)
        self._exact = {n: row.to(device, dtype) for n, row in (exact_rows or {}).items()}
        self._product = _product(matrix.quantised(bits, device), dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[rows, inputs]` to `[rows, outputs]`."""
        outputs = self._product(inputs)
        return outputs if self.bias is None else outputs.add_(self.bias)

    def add_to(self, total: Tensor, inputs: Tensor) -> None:
        """Add to `[rows, outputs]` what comes of `[rows, inputs]`."""
        if total.dtype == self._dtype:
            total.add_(self(inputs))
        else:
            add_scaled(total, inputs, self._dtype, self._product)
            if self.bias is not None:
                total.add_(self.bias)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Some of the exact rows, `[numbers, inputs]`."""
        return torch.stack([self._exact[number] for number in numbers])


class QuantisedEmbedding(nn.Module):
    """Stands in a model for an `nn.Embedding`."""

    def __init__(
        self, matrix: Matrix, bits: Bits, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.num_weights = matrix.outputs * matrix.inputs
        self._dtype = dtype
        self._weights = matrix.quantised(bits, device)

    def forward(self, ids: Tensor) -> Tensor:
        """`[positions]` to `[positions, width]`."""
        return self._weights.widened(ids, self._dtype)
