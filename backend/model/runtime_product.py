"""Products with quantised weights on a CPU: ONNX Runtime's `MatMulNBits`.

It multiplies integers, for which it rounds each block of its input to 8 bits as well.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor

from backend.config import BLOCK
from backend.model.quantised import Quantised

_INTEGER_PRODUCTS = 4
"""The operator's `accuracy_level` for them."""
_MOST_PARTS = 8
"""Each takes 0.2 MB for itself."""
_WORTH_SHARING = 2**20
"""A product with fewer weights is over before another thread has begun."""


class RuntimeProduct:
    """ONNX Runtime's, for a CPU. What `weights` hold is free when they are.

    Large ones are computed in parts, one on each of torch's threads. The runtime's own threads are
    no help: a session with such has them for itself, or else forbids other sessions to.
    """

    def __init__(self, weights: Quantised) -> None:
        is_large = weights.outputs * weights.inputs >= _WORTH_SHARING
        num_parts = min(torch.get_num_threads(), _MOST_PARTS) if is_large else 1
        bounds = [weights.outputs * part // num_parts for part in range(num_parts + 1)]
        self._parts = [_Part(weights, start, end) for start, end in pairwise(bounds)]

    def __call__(self, inputs: Tensor) -> Tensor:
        """As `Product` says."""
        values = inputs.float().contiguous()
        own, *others = self._parts
        if not others:
            return own.run(values).to(inputs.dtype)
        threads = _threads(len(others))
        running = [threads.submit(part.run, values) for part in others]
        parts = [own.run(values), *(part.result() for part in running)]
        return torch.cat(parts, dim=1).to(inputs.dtype)


class _Part:
    """Some of a product's outputs."""

    def __init__(self, weights: Quantised, start: int, end: int) -> None:
        self._outputs = end - start
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        values = {
            "codes": weights.codes[start:end],
            "scales": weights.scales[start:end].flatten(),
        }
        options.add_external_initializers(
            list(values),
            [onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy()) for value in values.values()],
        )
        self._session = onnxruntime.InferenceSession(
            _product_graph(weights, self._outputs), options, providers=["CPUExecutionProvider"]
        )

    def run(self, values: Tensor) -> Tensor:
        """Float32 `[rows, inputs]` to `[rows, outputs]`."""
        outputs = torch.empty(len(values), self._outputs)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, "inputs", values),
            (binding.bind_output, "outputs", outputs),
        ):
            bind(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding)
        return outputs


@cache
def _threads(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, "product")


def _product_graph(weights: Quantised, outputs: int) -> bytes:
    """A model of a single product, whose weights `[outputs, inputs]` are handed over beside it."""
    product = helper.make_node(
        "MatMulNBits",
        ["inputs", "codes", "scales"],
        ["outputs"],
        domain="com.microsoft",
        K=weights.inputs,
        N=outputs,
        bits=int(weights.bits),
        block_size=BLOCK,
        accuracy_level=_INTEGER_PRODUCTS,
    )
    graph = helper.make_graph(
        [product],
        "product",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["rows", weights.inputs])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["rows", outputs])],
        [
            _handed_over("codes", TensorProto.UINT8, (outputs, *weights.codes.shape[1:])),
            _handed_over("scales", TensorProto.FLOAT, [outputs * weights.num_blocks]),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    serialised: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=10
    ).SerializeToString()
    return serialised


def _handed_over(name: str, data_type: int, shape: Sequence[int]) -> TensorProto:
    tensor = TensorProto(name=name, data_type=data_type, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return tensor
