"""Occlusion's batch of replaced windows and its fold. Meaning: :mod:`fastsal.reference.windows`.

Bytes: ``batch`` writes (stop - start) * numel(input) elements and reads input once; ``fold`` reads the differences
and writes one map per output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from fastsal.ops._arguments import index_range, per_dimension, sizes_of, split_baseline
from fastsal.ops._define import Op
from fastsal.ops._vmap import into_batch, into_columns, rows_out
from fastsal.reference import windows as reference
from fastsal.reference._numerics import accumulation_dtype, memory_format

KERNEL_DIMENSIONS = 4
"""Dimensions beside the batch that the kernels cover: channel, depth, height, width."""


def _too_many(dimensions: int) -> str | None:
    if 1 <= dimensions <= KERNEL_DIMENSIONS:
        return None
    return f"the kernel takes 1 to {KERNEL_DIMENSIONS} dimensions beside the batch, not {dimensions}"


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
    supported=lambda input, *rest: _too_many(input.dim() - 1),
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
    supported=lambda differences, shape, *rest: _too_many(len(shape)),
)


@dataclass(frozen=True, init=False, slots=True)
class Windows:
    """Windows that slide over inputs of one shape, numbered in row-major order; checked once, when made.

    Args:
        shape: of an input, without the batch; any number of dimensions.
        window: size of the window in each dimension of shape (channel included), one int or one each.
        stride: step of the window in each dimension. The last window may hang over the edge.

    Attributes:
        shape, window, stride: of each dimension.
        counts: windows along each dimension.
        total: of them all.

    Raises:
        TypeError, ValueError: for a window or stride that is not one int of at least 1 per dimension, or a window
            larger than its dimension.
    """

    shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    counts: tuple[int, ...] = field(repr=False, compare=False)
    total: int = field(repr=False, compare=False)

    def __init__(self, shape: Sequence[int], window: int | Sequence[int], stride: int | Sequence[int] = 1) -> None:
        sizes = sizes_of("shape", shape)
        if not sizes:
            raise ValueError("shape: it is empty; windows need at least one dimension beside the batch")
        widths = per_dimension("window", window, len(sizes))
        for size, width in zip(sizes, widths, strict=True):
            if width > size:
                raise ValueError(f"window: {tuple(widths)} is larger than the input's {sizes}")
        steps = per_dimension("stride", stride, len(sizes))
        numbers = reference.counts(sizes, widths, steps)
        keep = object.__setattr__
        keep(self, "shape", sizes)
        keep(self, "window", tuple(widths))
        keep(self, "stride", tuple(steps))
        keep(self, "counts", tuple(numbers))
        keep(self, "total", prod(numbers))

    def batch(self, input: Tensor, start: int, stop: int, baseline: float | Tensor = 0.0) -> Tensor:
        """Copies of input with window p replaced by the baseline, p from start to stop.

        Args:
            input: [B, *shape], any dtype.
            start, stop: range of window indices.
            baseline: the replacement: a number, or a tensor that broadcasts to input.

        Returns:
            [(stop - start) * B, *shape] in the input's dtype and memory format, row (p - start) * B + b.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        shape = tuple(input.shape)  # a slice of a tuple costs a tenth of one of a torch.Size
        if shape[1:] != self.shape:
            raise ValueError(f"input: shape {shape} is not [B, {', '.join(map(str, self.shape))}]")
        index_range(start, stop, self.total)
        tensor, fill = split_baseline(input, baseline)
        return _batch(input, tensor, fill, start, stop, self.window, self.stride)

    def at(self, input: Tensor, positions: Tensor | Sequence[int], baseline: float | Tensor = 0.0) -> Tensor:
        """Copies of input with some windows replaced, as :meth:`batch` makes them of all; neighbours in one call.

        Args:
            input, baseline: as in :meth:`batch`.
            positions: [n], indices of windows: a list, or an integer tensor, for which the host waits.

        Returns:
            [n * B, *shape], row i * B + b for position i.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        chosen = positions.tolist() if isinstance(positions, Tensor) else list(positions)
        edges = [i for i in range(1, len(chosen)) if chosen[i] != chosen[i - 1] + 1]
        runs = zip([0, *edges], [*edges, len(chosen)], strict=True) if chosen else ()
        parts = [self.batch(input, chosen[low], chosen[high - 1] + 1, baseline) for low, high in runs]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else self.batch(input, 0, 0, baseline)

    def fold(self, differences: Tensor, *, average: bool = True) -> Tensor:
        """What the windows that cover an element contribute to it.

        Args:
            differences: [total, K], floating point: what window p did to output k.
            average: divide the sum by the number of covering windows.

        Returns:
            [K, *shape], float32 (float64 for float64); 0 where no window covers.

        Raises:
            ValueError: for arguments outside of the above.
        """
        if differences.dim() != 2 or differences.shape[0] != self.total or not differences.is_floating_point():
            given = f"{differences.dtype} of shape {tuple(differences.shape)}"
            raise ValueError(f"differences: {given} is not floating point of shape [{self.total}, K], a row per window")
        return _fold(differences, self.shape, self.window, self.stride, average)

    def rectangles(self) -> tuple[Tensor, Tensor]:
        """Where each window is: its first element and its end (excluded, cut at the edge) in each dimension.

        Returns:
            Two of [total, dimensions], int64, on the CPU.
        """
        index, below, firsts = torch.arange(self.total, device="cpu"), self.total, []
        for number, step in zip(self.counts, self.stride, strict=True):
            below //= number
            firsts.append(index // below % number * step)
        first = torch.stack(firsts, 1)
        window, shape = (torch.tensor(each, device="cpu") for each in (self.window, self.shape))
        return first, torch.minimum(first + window, shape)


def counts(shape: Sequence[int], window: int | Sequence[int], stride: int | Sequence[int]) -> tuple[int, ...]:
    """Number of windows along each dimension of ``shape`` (the input's without the batch), as of :class:`Windows`."""
    return Windows(shape, window, stride).counts


def batch(
    input: Tensor,
    start: int,
    stop: int,
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    baseline: float | Tensor = 0.0,
) -> Tensor:
    """:meth:`Windows.batch`, of the windows of the input's shape."""
    return Windows(tuple(input.shape)[1:], window, stride).batch(input, start, stop, baseline)


def fold(
    differences: Tensor,
    shape: Sequence[int],
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int],
    average: bool = True,
) -> Tensor:
    """:meth:`Windows.fold`, of the windows of an input's shape."""
    return Windows(shape, window, stride).fold(differences, average=average)
