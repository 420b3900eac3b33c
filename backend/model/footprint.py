"""What memory a model needs and what there is, told before it is loaded. Needs no torch."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from backend.config import BLOCK, Bits

GIGABYTE = 1e9
BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CPU_NUMBERS_OF_A_BLOCK = 3
"""Beside its weights: ONNX Runtime holds its scale twice, and a sum."""
_CPU_WORKING_BYTES = 0.1 * GIGABYTE
_GPU_WORKING_BYTES = 0.7 * GIGABYTE
"""For what lies between the layers, and on a GPU for its libraries' own needs."""
_PEAK_SHARE = 0.05
"""Of the weights, beside them while they are loaded, and left to what else runs."""
_LEAST_ADVISED_POSITIONS = 1024
"""Half a minute of conversation: nothing shorter is advised."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """As much of a model's shape as decides how large it is."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    positions: int
    tower_layers: int
    tower_width: int
    tower_feed_forward: int

    @property
    def layer_weights(self) -> int:
        """Of the language model's layers."""
        attention = (2 * self.heads + 2 * self.kv_heads) * self.head_size
        return self.layers * self.width * (attention + 3 * self.feed_forward)

    @property
    def table_weights(self) -> int:
        """Of the embedding, and as many of the head."""
        return self.vocabulary * self.width

    @property
    def tower_weights(self) -> int:
        """Of the tower's linear maps."""
        layer = self.tower_width * (4 * self.tower_width + 2 * self.tower_feed_forward)
        return self.tower_layers * layer + self.tower_width * self.width

    @property
    def convolution_weights(self) -> int:
        """Of the tower's convolutions, which are never quantised, and which a step has its way."""
        return 2 * 3 * self.tower_width * (self.tower_width + 128)

    @property
    def position_numbers(self) -> int:
        """Keys and values of a position."""
        return 2 * self.layers * self.kv_heads * self.head_size


RELEASED_DIMENSIONS = Dimensions(36, 2048, 16, 2, 128, 11_008, 151_936, 4096, 32, 1280, 5120)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """A model as it is to be loaded, with the conversations that it is to have."""

    shape: Dimensions
    device: str
    """`cpu`, `cuda`, ...: without a number."""
    dtype: str
    bits: Bits = Bits.SIXTEEN
    sessions: int = 1
    max_positions: int | None = None
    """Of each context; None takes the model's own limit."""

    @property
    def is_on_cpu(self) -> bool:
        """Where memory is taken only as it is used."""
        return self.device == "cpu"

    @property
    def positions(self) -> int:
        """Of each context."""
        return min(self.max_positions or self.shape.positions, self.shape.positions)

    @property
    def weight_bytes(self) -> float:
        """Of the weights."""
        shape = self.shape
        rest = 2 * shape.table_weights + shape.tower_weights
        return (
            shape.layer_weights * self._bytes_per_weight(self.bits)
            + rest * self._bytes_per_weight(self.bits.of_the_rest)
            + shape.convolution_weights * BYTES_OF[self.dtype]
        )

    @property
    def session_bytes(self) -> float:
        """Of one conversation's keys and values, when its context is full."""
        return self.positions * self.shape.position_numbers * BYTES_OF[self.dtype]

    @property
    def total_bytes(self) -> float:
        """Of all of it, when every context is full."""
        working = _CPU_WORKING_BYTES if self.is_on_cpu else _GPU_WORKING_BYTES
        weights = (1 + _PEAK_SHARE) * self.weight_bytes
        return weights + self.sessions * self.session_bytes + working

    @property
    def least_bytes(self) -> float:
        """Without which it cannot begin."""
        return replace(self, sessions=1).total_bytes if self.is_on_cpu else self.total_bytes

    def _bytes_per_weight(self, bits: Bits) -> float:
        if bits == Bits.SIXTEEN:
            return BYTES_OF[self.dtype]
        numbers = _CPU_NUMBERS_OF_A_BLOCK if self.is_on_cpu else 1
        return bits / 8 + numbers * 4 / BLOCK

    def advice(self, free_bytes: float) -> str:
        """What would fit, in words."""
        fitting = [
            f"{options} ({need.total_bytes / GIGABYTE:.1f} GB)"
            for options, need in self._smaller(free_bytes)
            if need.total_bytes <= free_bytes
        ]
        where = "a device with more memory"
        return f"take {', '.join(fitting)} or {where}" if fitting else f"take {where}"

    def _smaller(self, free_bytes: float) -> Iterator[tuple[str, "MemoryNeed"]]:
        room = free_bytes - replace(self, sessions=0).total_bytes
        if 1 <= (sessions := int(room / self.session_bytes)) < self.sessions:
            yield f"--sessions {sessions}", replace(self, sessions=sessions)
        positions = int(room / self.sessions / self.session_bytes * self.positions)
        if _LEAST_ADVISED_POSITIONS <= positions < self.positions:
            yield f"--max-positions {positions}", replace(self, max_positions=positions)
        for bits in (Bits.EIGHT, Bits.FOUR):
            if bits < self.bits:
                need = replace(self, bits=bits)
                yield f"--bits {bits}", need
                one = replace(need, sessions=1)
                if need.total_bytes > free_bytes and self.sessions > 1:
                    yield f"--bits {bits} --sessions 1", one


def free_memory() -> float:
    """Bytes of this machine's memory that may still be taken, also within a container's limit."""
    return min([float(psutil.virtual_memory().available), *_left_in_containers()])


def container_limit() -> int | None:
    """The bytes that a container's limit leaves to all that is in it; None for no limit."""
    return min((limit for limit, _ in _containers()), default=None)


def _left_in_containers() -> Iterator[float]:
    for limit, used in _containers():
        yield float(max(0, limit - used))


def _containers() -> Iterator[tuple[int, int]]:
    """Limit and use of each control group that limits this process, in bytes."""
    for folder in _control_groups():
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit_bytes, used_bytes = _number(folder / limit), _number(folder / used)
            if limit_bytes is not None:
                # Files that were read and are not in use are given up first.
                yield limit_bytes, max(0, (used_bytes or 0) - _inactive(folder / "memory.stat"))


def _control_groups() -> Iterator[Path]:
    """Those that this process is in, the innermost first: version 2's, and version 1's own root."""
    try:
        lines = _MEMBERSHIP.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("0::/"):
            own = _CGROUPS / line.removeprefix("0::/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(_CGROUPS))
    yield _CGROUPS
    yield _CGROUPS / "memory"


def _inactive(path: Path) -> int:
    try:
        stated = path.read_text("utf-8")
    except OSError:
        return 0
    found = re.search(r"^(?:total_)?inactive_file (\d+)$", stated, re.MULTILINE)
    return int(found[1]) if found else 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text("utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
