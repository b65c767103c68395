"""Occlusion's batch of replaced windows and its fold. Meaning: :mod:`fastsal.reference.windows`.

Bytes: ``batch`` writes (stop - start) * numel(input) elements and reads input once; ``fold`` reads the differences
and writes one map per output.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from fastsal.ops._arguments import index_range, per_dimension, split_baseline
from fastsal.ops._define import Op
from fastsal.ops._vmap import into_batch, into_columns, rows_out
from fastsal.reference import windows as reference
from fastsal.reference._numerics import accumulation_dtype, memory_format

KERNEL_DIMENSIONS = 4
"""Dimensions beside the batch that the kernels cover: channel, depth, height, width."""


def _empty_batch(input: Tensor, baseline: Any, fill: Any, start: Any, stop: Any, *rest: Any) -> Tensor:
    shape = ((stop - start) * input.shape[0], *input.shape[1:])
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))


def _vmap_batch(info: Any, dims: tuple[Any, ...], input: Tensor, baseline: Tensor | None, *rest: Any) -> Any:
    size = info.batch_size
    merged = into_batch(input, dims[0], size), into_batch(baseline, dims[1], size)
    return rows_out(_batch.overload(*merged, *rest), rest[2] - rest[1], size)


_batch = Op(
    "windows_batch(Tensor input, Tensor? baseline, float fill, SymInt start, SymInt stop, int[] window, "
    "int[] stride) -> Tensor",
    reference=reference.batch,
    kernel="windows.batch",
    empty=_empty_batch,
    vmap=_vmap_batch,
    supported=lambda input, *rest: 2 <= input.dim() <= KERNEL_DIMENSIONS + 1,
)


def _empty_fold(differences: Tensor, shape: Sequence[int], *rest: Any) -> Tensor:
    dtype = accumulation_dtype(differences.dtype)
    return torch.empty((differences.shape[1], *shape), dtype=dtype, device=differences.device)


def _vmap_fold(info: Any, dims: tuple[Any, ...], differences: Tensor, *rest: Any) -> Any:
    columns = into_columns(differences, dims[0], info.batch_size)
    return _fold.overload(columns, *rest).unflatten(0, (info.batch_size, -1)), 0


_fold = Op(
    "windows_fold(Tensor differences, int[] shape, int[] window, int[] stride, bool average) -> Tensor",
    reference=reference.fold,
    kernel="windows.fold",
    empty=_empty_fold,
    vmap=_vmap_fold,
    supported=lambda differences, shape, *rest: 1 <= len(shape) <= KERNEL_DIMENSIONS,
)


def counts(shape: Sequence[int], window: int | Sequence[int], stride: int | Sequence[int]) -> tuple[int, ...]:
    """Number of windows along each dimension of ``shape`` (the input's without the batch).

    Raises:
        TypeError, ValueError: for a window or stride that is not one int of at least 1 per dimension, or a window
            larger than its dimension.
    """
    return tuple(reference.counts(shape, *_geometry(shape, window, stride)))


def _geometry(
    shape: Sequence[int], window: int | Sequence[int], stride: int | Sequence[int]
) -> tuple[list[int], list[int]]:
    if not shape:
        raise ValueError("shape: it is empty; windows need at least one dimension beside the batch")
    widths = per_dimension("window", window, len(shape))
    for size, width in zip(shape, widths, strict=True):
        if width > size:
            raise ValueError(f"window: {tuple(widths)} is larger than the input's {tuple(shape)}")
    return widths, per_dimension("stride", stride, len(shape))


def batch(
    input: Tensor,
    start: int,
    stop: int,
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    baseline: float | Tensor = 0.0,
) -> Tensor:
    """Copies of input with window p replaced by the baseline, p from start to stop in row-major order.

    Args:
        input: [B, *shape], any number of dimensions, any dtype.
        start, stop: range of window indices.
        window: size of the window in each dimension of shape (channel included), one int or one each.
        stride: step of the window in each dimension. The last window may hang over the edge.
        baseline: the replacement: a number, or a tensor that broadcasts to input.

    Returns:
        [(stop - start) * B, *shape] in the input's dtype and memory format, row (p - start) * B + b.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    widths, steps = _geometry(input.shape[1:], window, stride)
    index_range(start, stop, prod(reference.counts(input.shape[1:], widths, steps)))
    tensor, fill = split_baseline(input, baseline)
    return _batch(input, tensor, fill, start, stop, widths, steps)


def fold(
    differences: Tensor,
    shape: Sequence[int],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    average: bool = True,
) -> Tensor:
    """What the windows that cover an element contribute to it.

    Args:
        differences: [P, K], floating point: what window p did to output k; P is the number of all windows.
        shape: the input's shape without the batch.
        window, stride: as in :func:`batch`.
        average: divide the sum by the number of covering windows.

    Returns:
        [K, *shape], float32 (float64 for float64); 0 where no window covers.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    shape = per_dimension("shape", list(shape), len(shape))
    widths, steps = _geometry(shape, window, stride)
    total = prod(reference.counts(shape, widths, steps))
    if differences.dim() != 2 or differences.shape[0] != total or not differences.is_floating_point():
        given = f"{differences.dtype} of shape {tuple(differences.shape)}"
        raise ValueError(f"differences: {given} is not floating point of shape [{total}, K], a row per window")
    return _fold(differences, shape, widths, steps, average)
