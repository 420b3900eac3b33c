"""Weights that are read together, laid together."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def joined_rows(parameters: Sequence[nn.Parameter]) -> Tensor:
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
