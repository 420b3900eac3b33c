"""Attention over a slot table as Triton kernels: keys and values are read in place, once.

Each program takes one row, one key/value head and a stretch of the keys, with all queries that
share the head as the rows of its products; a second kernel merges the stretches. Flash attention
(Dao, 2023) with split keys. How long a stretch is does not depend on the batch: so the
numbers of a row do not either.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from backend.model.slot_attention import RowTables

LEAST_CAPABILITY = (8, 0)
"""Of GPUs that Triton compiles for well."""
BLOCKS = ((64, 3), (64, 2), (32, 2), (32, 1), (16, 1))
"""Keys that a program takes at a time, and how many times it has them on their way at once."""
LONG_STRETCH = 512
"""Keys of one program, for rows of several positions."""
SHORT_STRETCH = 256
LEAST_PRODUCT = 16
"""Rows and columns of a product on tensor cores."""
WARPGROUP = 64
"""Rows of a product that four warps do well."""


# Where tables lie depends on a pass's size, and nothing is to be compiled anew for that.
@triton.jit(do_not_specialize_on_alignment=["places", "starts", "ends"])
def _attend_stretch(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    mixes,
    maxima,
    sums,
    places,
    starts,
    ends,
    scale,
    query_stride,
    place_stride,
    head_stride,
    STEPS: tl.constexpr,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    STRETCH: tl.constexpr,
    STRETCHES: tl.constexpr,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, head, stretch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start, end = tl.load(starts + row), tl.load(ends + row)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(tl.minimum(start, end - 1) - WINDOW + 1, 0)
    low = tl.maximum(stretch * STRETCH, first // BLOCK * BLOCK)
    high = tl.minimum((stretch + 1) * STRETCH, end)
    if low < high:
        query = tl.arange(0, QUERIES)
        column = tl.arange(0, WIDTH)
        step = query // GROUPS
        is_query = step < STEPS
        is_column = column < HEAD_SIZE
        position = tl.minimum(start + step, end - 1)
        query_head = head * GROUPS + query % GROUPS
        is_asked = is_query[:, None] & is_column[None, :]
        query_offset = (row * STEPS + step) * query_stride + query_head * HEAD_SIZE
        asked = tl.load(queries + query_offset[:, None] + column[None, :], mask=is_asked, other=0.0)
        base = tl.load(places + row).to(tl.int64) * place_stride + head * head_stride
        maximum = tl.full([QUERIES], float("-inf"), tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        mix = tl.zeros([QUERIES, WIDTH], tl.float32)
        for block in range(low, high, BLOCK):
            place = block + tl.arange(0, BLOCK)
            is_read = (place >= first) & (place < high)
            offset = base + place[:, None] * HEAD_SIZE + column[None, :]
            is_there = is_read[:, None] & is_column[None, :]
            key = tl.load(keys + offset, mask=is_there, other=0.0)
            value = tl.load(values + offset, mask=is_there, other=0.0)
            score = tl.dot(asked, tl.trans(key), input_precision="ieee") * scale
            is_seen = is_read[None, :] & (place[None, :] <= position[:, None])
            if WINDOW > 0:
                is_seen = is_seen & (place[None, :] > position[:, None] - WINDOW)
            score = tl.where(is_seen, score, float("-inf"))
            higher = tl.maximum(maximum, tl.max(score, 1))
            # A query may see nothing of this block, nor of those before.
            above = tl.where(higher == float("-inf"), 0.0, higher)
            weight = tl.exp(score - above[:, None])
            kept = tl.exp(maximum - above)
            total = total * kept + tl.sum(weight, 1)
            weighted = tl.dot(weight.to(value.dtype), value, input_precision="ieee")
            mix = mix * kept[:, None] + weighted
            maximum = higher
        part = ((row * STEPS + step) * HEADS + query_head) * STRETCHES + stretch
        tl.store(mixes + part[:, None] * HEAD_SIZE + column[None, :], mix, mask=is_asked)
        tl.store(maxima + part, maximum, mask=is_query)
        tl.store(sums + part, total, mask=is_query)


@triton.jit(do_not_specialize_on_alignment=["starts", "ends"])
def _merge_stretches(  # type: ignore[no-untyped-def]
    mixes,
    maxima,
    sums,
    starts,
    ends,
    merged,
    STEPS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    STRETCH: tl.constexpr,
    STRETCHES: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    head_row = tl.program_id(0)
    row = head_row // (STEPS * HEADS)
    start, end = tl.load(starts + row), tl.load(ends + row)
    stretch = tl.arange(0, PARTS)
    column = tl.arange(0, WIDTH)
    is_used = stretch * STRETCH < end
    if WINDOW > 0:
        first = tl.maximum(tl.minimum(start, end - 1) - WINDOW + 1, 0)
        is_used = is_used & ((stretch + 1) * STRETCH > first)
    part = head_row * STRETCHES + stretch
    maximum = tl.load(maxima + part, mask=is_used, other=float("-inf"))
    share = tl.exp(maximum - tl.max(maximum, 0))
    total = tl.sum(tl.load(sums + part, mask=is_used, other=0.0) * share, 0)
    is_there = is_used[:, None] & (column < HEAD_SIZE)[None, :]
    mix = tl.load(mixes + part[:, None] * HEAD_SIZE + column[None, :], mask=is_there, other=0.0)
    found = tl.sum(mix * share[:, None], 0) / total
    tl.store(
        merged + head_row * HEAD_SIZE + column,
        found.to(merged.dtype.element_ty),
        mask=column < HEAD_SIZE,
    )


def attend_with_kernel(
    queries: Tensor,
    layer: Tensor,
    tables: RowTables,
    window: int | None,
    mixed: Tensor,
    stretch: int | None = None,
) -> None:
    """See `Attend`; `stretch` is how many keys a program takes, None the usual number."""
    num_positions, num_heads, head_size = queries.shape
    num_rows, num_kv_heads, max_positions = len(tables.places), layer.shape[2], layer.shape[3]
    steps, groups = num_positions // num_rows, num_heads // num_kv_heads
    stretch = stretch or (SHORT_STRETCH if steps == 1 else LONG_STRETCH)
    stretches = triton.cdiv(max_positions, stretch)
    parts = torch.empty(
        num_positions, num_heads, stretches, head_size, dtype=torch.float32, device=queries.device
    )
    maxima, sums = torch.empty(2, *parts.shape[:3], device=queries.device).unbind(0)
    keys, values = layer.unbind(1)
    assert queries.stride()[1:] == (head_size, 1), "a position's heads lie behind one another"
    width = max(triton.next_power_of_2(head_size), LEAST_PRODUCT)
    num_queries = max(triton.next_power_of_2(steps * groups), LEAST_PRODUCT)
    block, num_stages = _block(queries.device, queries.dtype, num_queries, width)
    sizes = {
        "STEPS": steps,
        "HEADS": num_heads,
        "HEAD_SIZE": head_size,
        "WINDOW": window or 0,
        "STRETCH": stretch,
        "STRETCHES": stretches,
        "WIDTH": width,
    }
    _attend_stretch[(num_rows, num_kv_heads, stretches)](
        queries,
        keys,
        values,
        parts,
        maxima,
        sums,
        tables.places,
        tables.starts,
        tables.ends,
        head_size**-0.5,
        queries.stride(0),
        layer.stride(0),
        layer.stride(2),
        GROUPS=groups,
        QUERIES=num_queries,
        BLOCK=block,
        num_stages=num_stages,
        num_warps=8 if num_queries > WARPGROUP else 4,
        **sizes,
    )
    _merge_stretches[(num_positions * num_heads,)](
        parts,
        maxima,
        sums,
        tables.starts,
        tables.ends,
        mixed,
        PARTS=triton.next_power_of_2(stretches),
        **sizes,
    )


@lru_cache
def _block(
    device: torch.device, dtype: torch.dtype, num_queries: int, width: int
) -> tuple[int, int]:
    """The first of `BLOCKS` that fits into what a program has of a GPU's shared memory."""
    if device.type != "cuda":
        return BLOCKS[0]
    index = torch.cuda.current_device() if device.index is None else device.index
    room = triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]
    for block, num_stages in BLOCKS:
        numbers = num_queries * (width + block) + 2 * num_stages * block * width
        if numbers * dtype.itemsize <= room:
            return block, num_stages
    return BLOCKS[-1]
