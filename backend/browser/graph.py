"""The model as two ONNX graphs: a chunk's features, and the language model over its cache.

Written node by node and not traced: tracing takes a minute, and the graphs below have the shapes
that suit one thread of WebAssembly. The features of a chunk start from its samples, so that a page
computes no spectrum itself; keys and values come in as they lie in memory, and only new ones go
out. Every width comes from the checkpoint.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from backend.config import CHUNK_SAMPLES, HOP_SAMPLES, WINDOW_SAMPLES
from backend.features import (
    DYNAMIC_RANGE,
    HISTORY_SAMPLES,
    LOOKAHEAD_SAMPLES,
    POWER_FLOOR,
    LogMel,
)
from backend.model.checkpoint import Checkpoint
from backend.model.word_head import WordHead

SEGMENT_SAMPLES = HISTORY_SAMPLES + CHUNK_SAMPLES + LOOKAHEAD_SAMPLES
"""What a chunk's spectrum reaches over: some of the past, the chunk, some of it mirrored."""

_OPSET = 23
_IR_VERSION = 11
_HIDDEN = -1e30
"""What is added to the score of a key that a query must not see."""


class WeightFormat(StrEnum):
    """How weights lie in the file; sums are in fp32 whatever it is."""

    EXACT = "exact"
    """bfloat16 where that loses nothing, as of the embedded checkpoint, and float32 elsewhere."""
    INT8 = "int8"
    """Rounded, with a scale for each output."""


class Graph:
    """Nodes and weights that are added in the order in which they run."""

    def __init__(self, weight_format: WeightFormat) -> None:
        self._format = weight_format
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._num_names = 0

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; returns the output's name."""
        return self.add_many(kind, 1, *inputs, **attributes)[0]

    def add_many(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node of several outputs."""
        outputs = [self._name() for _ in range(count)]
        self._nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def constant(self, value: object, dtype: type[np.generic] = np.float32) -> str:
        """A small number or table, kept as it is."""
        name = self._name()
        self._weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, values: Tensor) -> str:
        """A weight in the graph's format; its last axis is the output's. Returns it in fp32."""
        exact = values.detach().float().contiguous()
        if self._format is WeightFormat.INT8:
            return self._rounded(exact.numpy())
        halved = exact.to(torch.bfloat16)
        if not torch.equal(halved.float(), exact):
            return self.constant(exact.numpy())
        name = self._name()
        content = halved.view(torch.int16).numpy().tobytes()
        self._weights.append(
            helper.make_tensor(name, TensorProto.BFLOAT16, exact.shape, content, raw=True)
        )
        # Done once, when the graph is loaded, as are all nodes that depend on weights alone.
        return self.add("Cast", name, to=TensorProto.FLOAT)

    def vector(self, values: Tensor) -> str:
        """A bias or the like: too small to be worth rounding."""
        return self.constant(values.detach().float().numpy())

    def linear(self, hidden: str, *layers: nn.Linear) -> str:
        """Linear layers of one input, run as one: their outputs lie side by side."""
        weights = torch.cat([layer.weight.detach().T for layer in layers], dim=1)
        product = self.add("MatMul", hidden, self.weight(weights))
        if all(layer.bias is None for layer in layers):
            return product
        biases = [
            layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data
            for layer in layers
        ]
        return self.add("Add", product, self.vector(torch.cat(biases)))

    def rename(self, name: str, output: str) -> None:
        """Let the graph give out `name` as `output`."""
        self._nodes.append(helper.make_node("Identity", [name], [output]))

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """The whole."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.checker.check_model(model)
        return model

    def _rounded(self, array: npt.NDArray[np.float32]) -> str:
        axes = tuple(range(array.ndim - 1))
        scale = np.maximum(np.abs(array).max(axis=axes, keepdims=True), 1e-12) / 127
        steps = self.constant(np.rint(array / scale), np.int8)
        return self.add("Mul", self.add("Cast", steps, to=TensorProto.FLOAT), self.constant(scale))

    def _name(self) -> str:
        self._num_names += 1
        return f"v{self._num_names}"


def _floats(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _integers(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT32, shape)


def hearing_graph(checkpoint: Checkpoint, weight_format: WeightFormat) -> onnx.ModelProto:
    """From sound to features.

    In: `samples` `[6640]`, the chunk with what lies around it; `maximum` `[1]`, of the session's
    log-mel so far, or less than any. Out: `features` `[10, width]`, `new_maximum` `[1]`.
    """
    graph = Graph(weight_format)
    log_mel, maximum = _log_mel(graph)
    graph.rename(maximum, "new_maximum")
    graph.rename(_tower(graph, checkpoint, log_mel), "features")
    return graph.model(
        "hearing",
        [_floats("samples", [SEGMENT_SAMPLES]), _floats("maximum", [1])],
        [_floats("features", ["features", "width"]), _floats("new_maximum", [1])],
    )


def _log_mel(graph: Graph) -> tuple[str, str]:
    """The log-mel `[1, 128, 40]` of the input, and the new maximum; see `backend.features`."""
    recipe = LogMel()
    time = torch.arange(WINDOW_SAMPLES, dtype=torch.float64)
    frequency = torch.arange(WINDOW_SAMPLES // 2 + 1, dtype=torch.float64)
    angles = 2 * math.pi / WINDOW_SAMPLES * torch.outer(frequency, time)
    waves = torch.cat([angles.cos(), angles.sin()]) * recipe.window.double()
    framed = graph.add("Unsqueeze", "samples", graph.constant([0, 1], np.int64))
    # A convolution is the Fourier transform of every frame at once.
    parts = graph.add(
        "Conv", framed, graph.constant(waves.float()[:, None].numpy()), strides=[HOP_SAMPLES]
    )
    squares = graph.add("Mul", parts, parts)
    # The filters twice, side by side: so the squares of cosine and sine are added as well.
    filters = graph.constant(torch.cat([recipe.filters, recipe.filters], dim=1).numpy())
    mel = graph.add("MatMul", filters, squares)
    log_mel = graph.add("Log", graph.add("Max", mel, graph.constant(POWER_FLOOR)))
    log_mel = graph.add("Mul", log_mel, graph.constant(1 / math.log(10)))
    loudest = graph.add("ReduceMax", log_mel, keepdims=0)
    maximum = graph.add("Max", "maximum", loudest)
    floor = graph.add("Sub", maximum, graph.constant(DYNAMIC_RANGE))
    clamped = graph.add("Max", log_mel, floor)
    scaled = graph.add("Add", graph.add("Mul", clamped, graph.constant(0.25)), graph.constant(1.0))
    return scaled, maximum


def _tower(graph: Graph, checkpoint: Checkpoint, log_mel: str) -> str:
    """The features `[10, width]` of a log-mel; see `backend.model.audio_tower`."""
    encoder = checkpoint.audio_tower.encoder
    num_heads = encoder.config.encoder_attention_heads
    hidden = log_mel
    for convolution in (encoder.conv1, encoder.conv2):
        weight = graph.weight(convolution.weight.movedim(0, -1))
        weight = graph.add("Transpose", weight, perm=[2, 0, 1])
        hidden = graph.add(
            "Conv",
            hidden,
            weight,
            graph.vector(convolution.bias),
            pads=[1, 1],
            strides=list(convolution.stride),
        )
        hidden = graph.add("Gelu", hidden)
    flat = graph.add("Squeeze", hidden, graph.constant([0], np.int64))
    flat = graph.add("Transpose", flat, perm=[1, 0])
    frames = CHUNK_SAMPLES // HOP_SAMPLES // 2
    positions = encoder.positional_embedding.positional_embedding[:frames]
    hidden = graph.add("Add", flat, graph.vector(positions))
    for layer in encoder.layers:
        attended = _tower_attention(
            graph,
            layer.self_attn,
            _layer_norm(graph, layer.self_attn_layer_norm, hidden),
            num_heads,
            frames,
        )
        hidden = graph.add("Add", hidden, attended)
        inner = graph.linear(_layer_norm(graph, layer.final_layer_norm, hidden), layer.fc1)
        hidden = graph.add("Add", hidden, graph.linear(graph.add("Gelu", inner), layer.fc2))
    pairs = graph.add("Reshape", hidden, graph.constant([frames // 2, 2, -1], np.int64))
    pooled = graph.add("ReduceMean", pairs, graph.constant([1], np.int64), keepdims=0)
    return graph.linear(_layer_norm(graph, encoder.ln_post, pooled), encoder.proj)


def _tower_attention(graph: Graph, attention: Any, hidden: str, num_heads: int, frames: int) -> str:
    joined = graph.linear(hidden, attention.q_proj, attention.k_proj, attention.v_proj)
    heads = graph.add("Reshape", joined, graph.constant([frames, 3, num_heads, -1], np.int64))
    heads = graph.add("Transpose", heads, perm=[1, 2, 0, 3])
    query, key, value = graph.add_many("Split", 3, heads, num_outputs=3, axis=0)
    size = attention.q_proj.out_features // num_heads
    query = graph.add("Mul", query, graph.constant(size**-0.5))
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
    mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = graph.add("Reshape", mixed, graph.constant([frames, -1], np.int64))
    return graph.linear(flat, attention.out_proj)


def _layer_norm(graph: Graph, norm: Any, hidden: str) -> str:
    return graph.add(
        "LayerNormalization",
        hidden,
        graph.vector(norm.weight),
        graph.vector(norm.bias),
        axis=-1,
        epsilon=norm.eps,
    )


def ring_positions(checkpoint: Checkpoint) -> int:
    """How many positions a query can look back over: what a page keeps keys and values of."""
    return min(checkpoint.sliding_window or checkpoint.max_positions, checkpoint.max_positions)


def decoder_graph(checkpoint: Checkpoint, weight_format: WeightFormat) -> onnx.ModelProto:
    """Some positions of the sequence, over keys and values of those before.

    In: `tokens` `[steps]`, -1 where a feature goes; `features` `[steps, width]`, whose other rows
    are not read; `positions` `[steps]`; `stored` `[ring]`, the positions whose keys and values
    `keys_0` ... `values_N` `[kv_heads, ring, head_size]` hold, or a number above any position. Out:
    `logits` `[vocabulary]` of the last position, and `new_keys`, `new_values`
    `[layers, kv_heads, steps, head_size]`; with a word head, also `word_logits`
    `[steps, pieces + 1]`.
    """
    model = checkpoint.language_model.model
    config = checkpoint.language_model.config
    num_layers, num_groups = config.num_hidden_layers, config.num_key_value_heads
    ring = ring_positions(checkpoint)
    graph, head = Graph(weight_format), checkpoint.word_head
    words = [] if head is None else [_floats("word_logits", ["steps", len(head.pieces)])]
    hidden = _embedded(graph, model.embed_tokens.weight)
    turns = _turns(graph, config.head_dim, config.rope_parameters["rope_theta"])
    mask = _mask(graph, checkpoint.sliding_window, config.num_attention_heads // num_groups)
    keys, values = [], []
    for number, layer in enumerate(model.layers):
        attention = SelfAttention(graph, layer.self_attn, config.num_attention_heads, num_groups)
        normed = _rms_norm(graph, layer.input_layernorm, hidden)
        mixed, key, value = attention.run(normed, turns, mask, number)
        hidden = graph.add("Add", hidden, mixed)
        keys.append(key)
        values.append(value)
        normed = _rms_norm(graph, layer.post_attention_layernorm, hidden)
        both = graph.linear(normed, layer.mlp.gate_proj, layer.mlp.up_proj)
        gate, up = graph.add_many("Split", 2, both, num_outputs=2, axis=-1)
        gated = graph.add("Mul", graph.add("Mul", gate, graph.add("Sigmoid", gate)), up)
        hidden = graph.add("Add", hidden, graph.linear(gated, layer.mlp.down_proj))
        if head is not None and head.layer == number + 1:
            graph.rename(_word_logits(graph, head, hidden), "word_logits")
    last = graph.add("Gather", hidden, graph.constant([-1], np.int64), axis=0)
    logits = graph.linear(_rms_norm(graph, model.norm, last), checkpoint.language_model.lm_head)
    graph.rename(graph.add("Squeeze", logits, graph.constant([0], np.int64)), "logits")
    graph.rename(graph.add("Concat", *keys, axis=0), "new_keys")
    graph.rename(graph.add("Concat", *values, axis=0), "new_values")
    held = [num_groups, ring, config.head_dim]
    written = [num_layers, num_groups, "steps", config.head_dim]
    return graph.model(
        "decoder",
        [
            _integers("tokens", ["steps"]),
            _floats("features", ["steps", config.hidden_size]),
            _integers("positions", ["steps"]),
            _integers("stored", [ring]),
            *[_floats(f"keys_{number}", held) for number in range(num_layers)],
            *[_floats(f"values_{number}", held) for number in range(num_layers)],
        ],
        [
            _floats("logits", [config.vocab_size]),
            _floats("new_keys", written),
            _floats("new_values", written),
            *words,
        ],
    )


def _embedded(graph: Graph, table: Tensor) -> str:
    zero = graph.constant(0, np.int32)
    is_feature = graph.add("Less", "tokens", zero)
    ids = graph.add("Max", "tokens", zero)
    # Rows are looked up in the stored format: few of them are needed.
    embedded = graph.add("Gather", graph.weight(table), ids, axis=0)
    rows = graph.add("Unsqueeze", is_feature, graph.constant([1], np.int64))
    return graph.add("Where", rows, "features", embedded)


def _turns(graph: Graph, head_size: int, base: float) -> tuple[str, str]:
    """Cosine and sine `[1, steps, head_size / 2]` of the positions' rotary angles."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.int64).float() / head_size
    frequencies = graph.constant((1.0 / base**exponents)[None].numpy())
    positions = graph.add("Cast", "positions", to=TensorProto.FLOAT)
    column = graph.add("Unsqueeze", positions, graph.constant([0, 2], np.int64))
    angles = graph.add("Mul", column, frequencies)
    return graph.add("Cos", angles), graph.add("Sin", angles)


def _mask(graph: Graph, window: int | None, num_sharing: int) -> str:
    """`[queries, ring + steps]`: 0 where a query sees a key; queries of heads that share keys."""
    keys = graph.add("Concat", "stored", "positions", axis=0)
    queries = graph.add("Unsqueeze", "positions", graph.constant([1], np.int64))
    is_seen = graph.add("LessOrEqual", keys, queries)
    if window is not None:
        oldest = graph.add("Sub", queries, graph.constant(window, np.int32))
        is_seen = graph.add("And", is_seen, graph.add("Greater", keys, oldest))
    mask = graph.add("Where", is_seen, graph.constant(0.0), graph.constant(_HIDDEN))
    return mask if num_sharing == 1 else graph.add("Concat", *[mask] * num_sharing, axis=0)


def _rms_norm(graph: Graph, norm: Any, hidden: str) -> str:
    return graph.add(
        "RMSNormalization",
        hidden,
        graph.vector(norm.weight),
        axis=-1,
        epsilon=norm.variance_epsilon,
    )


def _word_logits(graph: Graph, head: WordHead, hidden: str) -> str:
    plain = graph.constant(np.ones(head.weight.shape[1]))
    epsilon = torch.finfo(torch.float32).eps
    normed = graph.add("RMSNormalization", hidden, plain, axis=-1, epsilon=epsilon)
    product = graph.add("MatMul", normed, graph.weight(head.weight.T))
    return graph.add("Add", product, graph.vector(head.bias))


class SelfAttention:
    """Grouped-query attention of one layer over the ring and the new positions.

    The ring's keys are not joined with the new ones, which would copy all of them: scores are.
    """

    def __init__(self, graph: Graph, attention: Any, num_heads: int, num_groups: int) -> None:
        self._graph = graph
        self._attention = attention
        self._num_heads = num_heads
        self._num_groups = num_groups
        self._size = attention.q_proj.out_features // num_heads

    def run(
        self, hidden: str, turns: tuple[str, str], mask: str, number: int
    ) -> tuple[str, str, str]:
        """The layer's output, and the new keys and values `[1, kv_heads, steps, head_size]`."""
        graph, groups, size = self._graph, self._num_groups, self._size
        attention = self._attention
        joined = graph.linear(hidden, attention.q_proj, attention.k_proj, attention.v_proj)
        num_all = self._num_heads + 2 * groups
        heads = graph.add("Reshape", joined, graph.constant([1, -1, num_all, size], np.int64))
        heads = graph.add("Transpose", heads, perm=[0, 2, 1, 3])
        sizes = graph.constant([self._num_heads + groups, groups], np.int64)
        turned, value = graph.add_many("Split", 2, heads, sizes, axis=1)
        turned = graph.add("RotaryEmbedding", turned, *turns)
        sizes = graph.constant([self._num_heads, groups], np.int64)
        query, key = graph.add_many("Split", 2, turned, sizes, axis=1)
        query = graph.add("Mul", query, graph.constant(size**-0.5))
        query = graph.add("Reshape", query, graph.constant([groups, -1, size], np.int64))
        new_key, new_value = (
            graph.add("Squeeze", part, graph.constant([0], np.int64)) for part in (key, value)
        )
        scores = graph.add(
            "Concat",
            self._scores(query, f"keys_{number}"),
            self._scores(query, new_key),
            axis=-1,
        )
        weights = graph.add("Softmax", graph.add("Add", scores, mask), axis=-1)
        mixed = self._mixed(weights, f"values_{number}", new_value)
        mixed = graph.add("Reshape", mixed, graph.constant([self._num_heads, -1, size], np.int64))
        mixed = graph.add("Transpose", mixed, perm=[1, 0, 2])
        flat = graph.add("Reshape", mixed, graph.constant([-1, self._num_heads * size], np.int64))
        return graph.linear(flat, attention.o_proj), key, value

    def _scores(self, query: str, key: str) -> str:
        graph = self._graph
        return graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 2, 1]))

    def _mixed(self, weights: str, held: str, new: str) -> str:
        graph = self._graph
        num_held = graph.add("Shape", held, start=1, end=2)
        zero, end = graph.constant([0], np.int64), graph.constant([2**31 - 1], np.int64)
        axis = graph.constant([2], np.int64)
        of_held = graph.add("Slice", weights, zero, num_held, axis)
        of_new = graph.add("Slice", weights, num_held, end, axis)
        return graph.add(
            "Add", graph.add("MatMul", of_held, held), graph.add("MatMul", of_new, new)
        )
