"""Occlusion: the batch with one window replaced per row, and the sum over the windows that cover an element."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import block_size, cdiv, dense_like, launch, per_program, planes_of, vector_width
from fastsal_kernels._numerics import fill_like
from fastsal_kernels._tuning import setting

GEOMETRY = [f"{what}_{axis}" for what in ("count", "window", "stride") for axis in "cdhw"]
"""Small integers that would compile a kernel anew each time one is 1 or a multiple of 16."""


@triton.jit(
    do_not_specialize=[
        "start",
        "stop",
        "rows",
        "channels",
        "depth",
        "height",
        "length_in_vectors",
        "fill",
        *GEOMETRY,
    ]
)
def batch_kernel(
    out_ptr,
    x_ptr,
    baseline_ptr,
    start,
    stop,
    rows,
    channels,
    depth,
    height,
    length_in_vectors,
    fill,
    count_d,
    count_h,
    count_w,
    window_c,
    window_d,
    window_h,
    window_w,
    stride_c,
    stride_d,
    stride_h,
    stride_w,
    INTERLEAVED: tl.constexpr,
    VECTOR: tl.constexpr,
    BASELINE: tl.constexpr,  # 1: a number, 2: a tensor in the layout of x
    BLOCK_R: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """out[p - start] = x with window p replaced, by selection. Bytes: the result, plus x once per WINDOWS windows.

    A program keeps a tile of dense rows in registers and writes it once per window.
    """
    length = length_in_vectors * VECTOR
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    q = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    valid = (r < rows)[:, None] & (q < length)[None, :]
    position = r[:, None] * length + q[None, :]
    x = tl.load(x_ptr + position, mask=valid, other=0.0)
    if BASELINE == 2:
        baseline = tl.load(baseline_ptr + position, mask=valid, other=0.0)
    else:
        baseline = fill_like(x, fill)
    y = r % height
    z = r // height % depth
    column = q // INTERLEAVED
    input_size = tl.cast(rows, tl.int64) * length
    first = start + tl.program_id(2) * WINDOWS
    for p in range(first, tl.minimum(first + WINDOWS, stop)):
        left = p % count_w * stride_w
        top = p // count_w % count_h * stride_h
        front = p // (count_w * count_h) % count_d * stride_d
        channel_first = p // (count_w * count_h * count_d) * stride_c
        in_rows = (y >= top) & (y < top + window_h) & (z >= front) & (z < front + window_d)
        in_columns = (column >= left) & (column < left + window_w)
        if INTERLEAVED == 1:
            c = r // (height * depth) % channels
            in_rows = in_rows & (c >= channel_first) & (c < channel_first + window_c)
        else:
            c = q % INTERLEAVED
            in_columns = in_columns & (c >= channel_first) & (c < channel_first + window_c)
        replaced = tl.where(in_rows[:, None] & in_columns[None, :], baseline, x)
        tl.store(out_ptr + tl.cast(p - start, tl.int64) * input_size + position, replaced, mask=valid)


@triton.jit
def _covering(position, window, stride, count):
    """First and last window that cover a position; the last is below the first where none does."""
    first = tl.where(position < window, 0, (position - window) // stride + 1)
    return first, tl.minimum(position // stride, count - 1)


@triton.jit
def _number(first, last):
    return tl.maximum(last - first + 1, 0)


@triton.jit(do_not_specialize=["outputs", "channels", "depth", "height", *GEOMETRY])
def fold_kernel(
    out_ptr,
    differences_ptr,
    outputs,
    channels,
    depth,
    height,
    width,
    count_c,
    count_d,
    count_h,
    count_w,
    window_c,
    window_d,
    window_h,
    window_w,
    stride_c,
    stride_d,
    stride_h,
    stride_w,
    AVERAGE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """out[k, e] = sum (or mean) of differences[p, k] over the windows p that cover e, gathered in a fixed order.

    Bytes: the differences and the result. The windows of an element are ranges per dimension, in closed form.
    """
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    x = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)
    k = tl.cast(tl.program_id(0), tl.int64)
    rows = channels * depth * height
    first_c, last_c = _covering(r // (height * depth), window_c, stride_c, count_c)
    first_d, last_d = _covering(r // height % depth, window_d, stride_d, count_d)
    first_h, last_h = _covering(r % height, window_h, stride_h, count_h)
    first_w, last_w = _covering(x, window_w, stride_w, count_w)
    total = tl.zeros([BLOCK_R, BLOCK_W], tl.float32)
    for ahead_c in range(0, tl.minimum(tl.cdiv(window_c, stride_c), count_c)):
        for ahead_d in range(0, tl.minimum(tl.cdiv(window_d, stride_d), count_d)):
            for ahead_h in range(0, tl.minimum(tl.cdiv(window_h, stride_h), count_h)):
                covers = (first_c + ahead_c <= last_c) & (first_d + ahead_d <= last_d) & (first_h + ahead_h <= last_h)
                covers = covers & (r < rows)
                line = ((first_c + ahead_c) * count_d + first_d + ahead_d) * count_h + first_h + ahead_h
                for ahead_w in range(0, tl.minimum(tl.cdiv(window_w, stride_w), count_w)):
                    column = first_w + ahead_w
                    reached = covers[:, None] & (column <= last_w)[None, :]
                    window = line[:, None] * count_w + column[None, :]
                    where = differences_ptr + window.to(tl.int64) * outputs + k
                    total += tl.load(where, mask=reached, other=0.0).to(tl.float32)
    if AVERAGE:
        per_row = _number(first_c, last_c) * _number(first_d, last_d) * _number(first_h, last_h)
        number = per_row[:, None] * _number(first_w, last_w)[None, :]
        total = total / tl.maximum(number, 1).to(tl.float32)
    valid = (r < rows)[:, None] & (x < width)[None, :]
    tl.store(out_ptr + (k * rows + r[:, None]) * width + x[None, :], total, mask=valid)


def _four(sizes: Sequence[int]) -> list[int]:
    """Channel, depth, height, width of one to four dimensions beside the batch."""
    if len(sizes) == 1:
        return [1, 1, 1, sizes[0]]
    return [sizes[0], *[1] * (4 - len(sizes)), *sizes[1:]]


def _counts(shape: list[int], window: list[int], stride: list[int]) -> list[int]:
    return [1 + cdiv(size - width, step) for size, width, step in zip(shape, window, stride, strict=True)]


def batch(
    out: Tensor,
    input: Tensor,
    baseline: Tensor | None,
    fill: float,
    start: int,
    stop: int,
    window: Sequence[int],
    stride: Sequence[int],
) -> None:
    """Launch ``fastsal::windows_batch``."""
    widths, steps = _four(window), _four(stride)
    counts = _counts(_four(input.shape[1:]), widths, steps)
    layout = planes_of(out)
    rows = input.numel() // layout.length
    x = dense_like(input, out)
    vector = vector_width(layout.length)
    # A baseline tile, or a channel test per column, does not fit in registers beside as many rows.
    heavy = baseline is not None or layout.interleaved != 1
    blocks = setting("windows.batch heavy" if heavy else "windows.batch", input.numel(), input.device)
    block_r = block_size(rows, blocks["rows"])
    block_q = block_size(layout.length, max(256, blocks["tile"] // block_r))
    windows = per_program(stop - start, blocks["items"])
    launch(
        batch_kernel,
        (cdiv(rows, block_r), cdiv(layout.length, block_q), cdiv(stop - start, windows)),
        out,
        x,
        x if baseline is None else dense_like(baseline, out),
        start,
        stop,
        rows,
        layout.channels,
        layout.depth,
        layout.height,
        layout.length // vector,
        fill,
        *counts[1:],
        *widths,
        *steps,
        INTERLEAVED=layout.interleaved,
        VECTOR=vector,
        BASELINE=1 if baseline is None else 2,
        BLOCK_R=block_r,
        BLOCK_Q=block_q,
        WINDOWS=windows,
        num_warps=blocks["num_warps"],
    )


def fold(
    out: Tensor,
    differences: Tensor,
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    average: bool,
) -> None:
    """Launch ``fastsal::windows_fold``."""
    sizes, widths, steps = _four(shape), _four(window), _four(stride)
    rows = sizes[0] * sizes[1] * sizes[2]
    block_r, block_w = block_size(rows, 16), block_size(sizes[3], 32)
    launch(
        fold_kernel,
        (out.shape[0], cdiv(rows, block_r), cdiv(sizes[3], block_w)),
        out,
        differences.contiguous(),
        out.shape[0],
        *sizes,
        *_counts(sizes, widths, steps),
        *widths,
        *steps,
        AVERAGE=average,
        BLOCK_R=block_r,
        BLOCK_W=block_w,
        num_warps=4 if block_r * block_w >= 128 else 1,
    )
