"""The sum that layers add to, which in this family of models outgrows float16.

A few of its numbers reach 10^5 and more, where float16 ends at 65 504. So with float16 weights the
sum is in float32, and what is multiplied is scaled down before, row by row, and up again behind.
In other formats nothing of that is done.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LEAST_SCALE = 1e-20
"""Of a row of zeros."""


def widened(tensor: Tensor) -> Tensor:
    """In float32 where it is float16; otherwise as it is."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In another format where it has another: also a call that does nothing has its cost."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def add_scaled(
    total: Tensor, inputs: Tensor, dtype: torch.dtype, multiply: Callable[[Tensor], Tensor]
) -> None:
    """Add to a widened `[rows, outputs]` what comes of `[rows, inputs]`, in place.

    Args:
        total: the sum.
        inputs: in any format.
        dtype: of the weights.
        multiply: with them; both what it takes and what it gives are in their format.
    """
    scale = inputs.float().abs().amax(1, keepdim=True).clamp_min_(LEAST_SCALE)
    total.addcmul_(multiply((inputs / scale).to(dtype)).float(), scale)
