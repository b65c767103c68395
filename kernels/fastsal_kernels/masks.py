"""RISE masks: grids from Philox, the masked batch, the per-offset sum of grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import block_size, cdiv, dense_like, launch, per_program, planes_of, vector_width
from fastsal_kernels._numerics import bit, border
from fastsal_kernels._tuning import setting


@triton.jit(do_not_specialize=["seed", "start", "count", "threshold", "rows", "cells_w", "cell_d", "cell_h", "cell_w"])
def grids_kernel(
    words_ptr,
    offsets_ptr,
    seed: tl.int64,
    start: tl.int64,
    count,
    threshold: tl.int64,
    rows,
    cells_w,
    cell_d,
    cell_h,
    cell_w,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Grid rows as bits of a word, words[n, row] bit k, and the crop offsets [n, 3]. Bytes: 4 * (rows + 3) a mask."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    index = n.to(tl.int64) + start
    low = (index & 0xFFFFFFFF).to(tl.uint32)
    high = ((index >> 32) & 0xFFFFFFFF).to(tl.uint32)
    column = tl.arange(0, BLOCK_W)
    zero = tl.zeros([BLOCK_N, BLOCK_W], tl.uint32)
    for row in range(0, rows):
        element = row * cells_w + column
        r0, r1, r2, r3 = tl.philox(
            seed, zero + low[:, None], zero + high[:, None], zero + (element >> 2).to(tl.uint32)[None, :], zero
        )
        lane = (element & 3)[None, :]
        word = tl.where(lane == 0, r0, tl.where(lane == 1, r1, tl.where(lane == 2, r2, r3)))
        on = ((word.to(tl.int64) < threshold) & (column < cells_w)[None, :]).to(tl.int32)
        tl.store(words_ptr + n.to(tl.int64) * rows + row, tl.sum(on << column[None, :], axis=1), mask=n < count)
    origin = tl.zeros([BLOCK_N], tl.uint32)
    r0, r1, r2, r3 = tl.philox(seed, low, high, origin, origin + 1)
    offsets = offsets_ptr + n.to(tl.int64) * 3
    tl.store(offsets, tl.umulhi(r0, origin + cell_d.to(tl.uint32)).to(tl.int32), mask=n < count)
    tl.store(offsets + 1, tl.umulhi(r1, origin + cell_h.to(tl.uint32)).to(tl.int32), mask=n < count)
    tl.store(offsets + 2, tl.umulhi(r2, origin + cell_w.to(tl.uint32)).to(tl.int32), mask=n < count)


@triton.jit
def _grid_row(word, column, fraction):
    """Horizontal interpolation of one bit-packed grid row."""
    shifted = word >> column
    first = bit(shifted & 1)
    return first + fraction * (bit(shifted & 2) - first)


@triton.jit
def _plane(words_ptr, low, above, column, fraction, SPAN: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Mask of a tile from SPAN grid rows: t_0 + sum_v clamp(above - v, 0, 1) (t_{v+1} - t_v)."""
    row = _grid_row(tl.load(words_ptr + low), column, fraction)
    mask = tl.broadcast_to(row[None, :], [BLOCK_H, BLOCK_Q])
    for v in tl.static_range(SPAN - 1):
        following = _grid_row(tl.load(words_ptr + low + v + 1), column, fraction)
        share = tl.minimum(tl.maximum(above - v, 0.0), 1.0)
        mask += share[:, None] * (following - row)[None, :]
        row = following
    return mask


@triton.jit(
    do_not_specialize=[
        "count",
        "planes",
        "depth",
        "height",
        "length_in_vectors",
        "cells_d",
        "cells_h",
        "cells_w",
        "fill",
    ]
)
def batch_kernel(
    out_ptr,
    x_ptr,
    baseline_ptr,
    words_ptr,
    offsets_ptr,
    count,
    planes,
    depth,
    height,
    length_in_vectors,
    cells_d,
    cells_h,
    cells_w,
    scale_d,
    scale_h,
    scale_w,
    fill,
    INTERLEAVED: tl.constexpr,
    VECTOR: tl.constexpr,
    BASELINE: tl.constexpr,  # 0: none, 1: a number, 2: a tensor in the layout of x
    MIRROR: tl.constexpr,
    VOLUME: tl.constexpr,
    SPAN: tl.constexpr,  # grid rows that one tile can touch
    BLOCK_H: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    MASKS: tl.constexpr,
):
    """out[n] = m_n x + (1 - m_n) b. Bytes: the result, plus x once per MASKS masks.

    A program keeps a tile of rows of one plane in registers and writes it under MASKS masks. Dense rows.
    """
    length = length_in_vectors * VECTOR
    row_blocks = tl.cdiv(height, BLOCK_H)
    plane = tl.program_id(0) // row_blocks
    top = (tl.program_id(0) % row_blocks) * BLOCK_H
    q = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    y = top + tl.arange(0, BLOCK_H)
    valid = (y < height)[:, None] & (q < length)[None, :]
    position = (plane * height + y)[:, None] * length + q[None, :]
    x = tl.load(x_ptr + position, mask=valid, other=0.0)
    if BASELINE == 2:
        baseline = tl.load(baseline_ptr + position, mask=valid, other=0.0)
    column_pixel = q // INTERLEAVED
    input_size = tl.cast(planes * height, tl.int64) * length
    first = tl.program_id(2) * MASKS
    for n in range(first, tl.minimum(first + MASKS, count)):
        mask_index = tl.cast(n, tl.int64)
        offsets = offsets_ptr + mask_index * 3
        offset_h = tl.load(offsets + 1)
        cx = (column_pixel + tl.load(offsets + 2)).to(tl.float32)
        cx = border((cx + 0.5) * scale_w - 0.5, tl.cast(cells_w - 1, tl.float32), MIRROR)
        column = cx.to(tl.int32)
        fraction = cx - column.to(tl.float32)
        cy = (y + offset_h).to(tl.float32)
        cy = border((cy + 0.5) * scale_h - 0.5, tl.cast(cells_h - 1, tl.float32), MIRROR)
        low = tl.floor((tl.cast(top + offset_h, tl.float32) + 0.5) * scale_h - 0.5).to(tl.int32)
        low = tl.minimum(tl.maximum(low, 0), cells_h - SPAN)
        above = cy - tl.cast(low, tl.float32)
        words = words_ptr + mask_index * (cells_d * cells_h)
        if VOLUME:
            cz = tl.cast(plane % depth + tl.load(offsets), tl.float32)
            cz = border((cz + 0.5) * scale_d - 0.5, tl.cast(cells_d - 1, tl.float32), MIRROR)
            layer = cz.to(tl.int32)
            between = cz - layer.to(tl.float32)
            near = _plane(words + layer * cells_h, low, above, column, fraction, SPAN, BLOCK_H, BLOCK_Q)
            layer = tl.minimum(layer + 1, cells_d - 1)
            far = _plane(words + layer * cells_h, low, above, column, fraction, SPAN, BLOCK_H, BLOCK_Q)
            mask = near + between * (far - near)
        else:
            mask = _plane(words, low, above, column, fraction, SPAN, BLOCK_H, BLOCK_Q)
        result = mask * x.to(tl.float32)
        if BASELINE == 1:
            result += (1.0 - mask) * fill
        elif BASELINE == 2:
            result += (1.0 - mask) * baseline.to(tl.float32)
        tl.store(out_ptr + mask_index * input_size + position, result.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["outputs", "rows", "cells_w"])
def accumulate_kernel(
    out_ptr,
    partial_ptr,
    scores_ptr,
    words_ptr,
    order_ptr,
    starts_ptr,
    outputs,
    rows,
    cells_w,
    PARTIAL: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """out[bucket, k, e] = partial + sum of scores[n, k] * grid_n[e] over the masks n of one crop offset.

    Masks in ascending order on top of the partial sum: chunks give the bits of one call, without atomics.
    Bytes: the state read and written, plus scores and grids.
    """
    bucket = tl.program_id(0)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    element = tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    cells = rows * cells_w
    row = element // cells_w
    column = element % cells_w
    position = (tl.cast(bucket, tl.int64) * outputs + k)[:, None] * cells + element[None, :]
    valid = (k < outputs)[:, None] & (element < cells)[None, :]
    if PARTIAL:
        total = tl.load(partial_ptr + position, mask=valid, other=0.0)
    else:
        total = tl.zeros([BLOCK_K, BLOCK_E], tl.float32)
    for slot in range(tl.load(starts_ptr + bucket), tl.load(starts_ptr + bucket + 1)):
        n = tl.load(order_ptr + slot)
        score = tl.load(scores_ptr + n * outputs + k, mask=k < outputs, other=0.0).to(tl.float32)
        word = tl.load(words_ptr + n * rows + row, mask=element < cells, other=0)
        total += score[:, None] * bit((word >> column) & 1)[None, :]
    tl.store(out_ptr + position, total, mask=valid)


def _volume(sizes: Sequence[int]) -> list[int]:
    return [1] * (3 - len(sizes)) + list(sizes)


def _draw(
    seed: int, start: int, count: int, cells: list[int], cell: list[int], probability: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    rows = cells[0] * cells[1]
    words = torch.empty((count, rows), dtype=torch.int32, device=device)
    offsets = torch.empty((count, 3), dtype=torch.int32, device=device)
    block = 32
    launch(
        grids_kernel,
        (cdiv(count, block),),
        words,
        offsets,
        seed,
        start,
        count,
        round(probability * 2**32),
        rows,
        cells[2],
        *cell,
        BLOCK_N=block,
        BLOCK_W=max(block_size(cells[2], 32), 4),
        num_warps=1,
    )
    return words, offsets


def batch(
    out: Tensor,
    input: Tensor,
    baseline: Tensor | None,
    fill: float,
    seed: int,
    start: int,
    stop: int,
    grid: Sequence[int],
    probability: float,
    mirror: bool,
    words: Tensor | None,
    offsets: Tensor | None,
) -> None:
    """Launch ``fastsal::masks_batch``."""
    count, cells = stop - start, _volume(grid)
    size = _volume(input.shape[2:])
    cell = [cdiv(extent, number) for extent, number in zip(size, cells, strict=True)]
    if words is None or offsets is None:
        words, offsets = _draw(seed, start, count, cells, cell, probability, input.device)
    scale = [number / ((number + 1) * pixels) for number, pixels in zip(cells, cell, strict=True)]
    layout = planes_of(out)
    planes = input.shape[0] * layout.channels // layout.interleaved * layout.depth
    kind = 2 if baseline is not None else int(fill != 0.0)
    x = dense_like(input, out)
    vector = vector_width(layout.length)
    # A baseline tile doubles what the program holds in registers.
    heavy = kind == 2 or cells[0] > 1
    blocks = setting("masks.batch heavy" if heavy else "masks.batch", input.numel(), input.device)
    block_h = block_size(layout.height, blocks["rows"])
    block_q = block_size(layout.length, max(256, blocks["tile"] // block_h))
    masks = per_program(count, blocks["items"])
    launch(
        batch_kernel,
        (planes * cdiv(layout.height, block_h), cdiv(layout.length, block_q), cdiv(count, masks)),
        out,
        x,
        x if baseline is None else dense_like(baseline, out),
        words.contiguous(),
        offsets.contiguous(),
        count,
        planes,
        layout.depth,
        layout.height,
        layout.length // vector,
        *cells,
        *scale,
        fill,
        INTERLEAVED=layout.interleaved,
        VECTOR=vector,
        BASELINE=kind,
        MIRROR=mirror,
        VOLUME=cells[0] > 1,
        SPAN=min(cells[1], int((block_h - 1) * scale[1]) + 3),
        BLOCK_H=block_h,
        BLOCK_Q=block_q,
        MASKS=masks,
        num_warps=blocks["num_warps"],
    )


def accumulate(
    out: Tensor,
    scores: Tensor,
    partial: Tensor | None,
    seed: int,
    start: int,
    size: Sequence[int],
    grid: Sequence[int],
    probability: float,
    words: Tensor | None,
    offsets: Tensor | None,
) -> None:
    """Launch ``fastsal::masks_accumulate``."""
    cells = _volume(grid)
    cell = [cdiv(extent, number) for extent, number in zip(_volume(size), cells, strict=True)]
    count, outputs = scores.shape
    if words is None or offsets is None:
        words, offsets = _draw(seed, start, count, cells, cell, probability, scores.device)
    bucket = (offsets[:, 0] * cell[1] + offsets[:, 1]) * cell[2] + offsets[:, 2]
    ordered, order = torch.sort(bucket, stable=True)
    buckets = cell[0] * cell[1] * cell[2]
    edges = torch.arange(buckets + 1, dtype=ordered.dtype, device=ordered.device)
    starts = torch.searchsorted(ordered, edges, out_int32=True)
    elements = cells[0] * cells[1] * cells[2]
    block_e = block_size(elements, 256)
    block_k = block_size(outputs, 2048 // block_e)
    launch(
        accumulate_kernel,
        (buckets, cdiv(outputs, block_k), cdiv(elements, block_e)),
        out,
        out if partial is None else partial.contiguous(),
        scores.contiguous(),
        words.contiguous(),
        order,
        starts,
        outputs,
        cells[0] * cells[1],
        cells[2],
        PARTIAL=partial is not None,
        BLOCK_K=block_k,
        BLOCK_E=block_e,
    )
