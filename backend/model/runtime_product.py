"""Products with quantised weights on a CPU: ONNX Runtime's `MatMulNBits`.

It multiplies integers, for which it rounds each block of its input to 8 bits as well.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor

from backend.config import BLOCK
from backend.model.quantised import Quantised

_INTEGER_PRODUCTS = 4
"""The operator's `accuracy_level` for them."""


class RuntimeProduct:
    """ONNX Runtime's, for a CPU. What `weights` hold is free when they are."""

    def __init__(self, weights: Quantised) -> None:
        self._outputs = weights.outputs
        _share_threads(torch.get_num_threads())
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        options.enable_cpu_mem_arena = False
        # Threads that spin until the next product would keep torch's from what lies between.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        values = {"codes": weights.codes, "scales": weights.scales.flatten()}
        options.add_external_initializers(
            list(values),
            [onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy()) for value in values.values()],
        )
        self._session = onnxruntime.InferenceSession(
            _product_graph(weights), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: Tensor) -> Tensor:
        """As `Product` says."""
        values = inputs.float().contiguous()
        outputs = torch.empty(len(values), self._outputs)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, "inputs", values),
            (binding.bind_output, "outputs", outputs),
        ):
            bind(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding)
        return outputs.to(inputs.dtype)


def _product_graph(weights: Quantised) -> bytes:
    """A model of a single product, whose weights are handed over beside it."""
    product = helper.make_node(
        "MatMulNBits",
        ["inputs", "codes", "scales"],
        ["outputs"],
        domain="com.microsoft",
        K=weights.inputs,
        N=weights.outputs,
        bits=int(weights.bits),
        block_size=BLOCK,
        accuracy_level=_INTEGER_PRODUCTS,
    )
    graph = helper.make_graph(
        [product],
        "product",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["rows", weights.inputs])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["rows", weights.outputs])],
        [
            _handed_over("codes", TensorProto.UINT8, weights.codes.shape),
            _handed_over("scales", TensorProto.FLOAT, [weights.scales.numel()]),
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


@cache
def _share_threads(num_threads: int) -> None:
    """Let all products run on the same threads; those of a first call stay."""
    onnxruntime.set_global_thread_pool_sizes(num_threads, 1)
