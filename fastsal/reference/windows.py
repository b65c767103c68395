"""Occlusion's windows: the batch with one window replaced per row, and the average of score differences per element.

Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), section 4.2. Every dimension but
the batch has a window and a stride, as in Captum; the last window of a dimension may hang over the edge.

NaN: a window replaces, so a NaN inside it is gone; a NaN difference reaches only the elements its window covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from fastsal.reference._numerics import accumulation_dtype, memory_format


def counts(shape: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Windows per dimension: 1 + ceil((size - window) / stride)."""
    return [1 - (-(size - width) // step) for size, width, step in zip(shape, window, stride, strict=True)]


def batch(
    input: Tensor,
    baseline: Tensor | None,
    fill: float,
    start: int,
    stop: int,
    window: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """Copies [(stop - start) * B, *shape] of input [B, *shape], window p of row (p - start) * B + b replaced."""
    shape = input.shape[1:]
    index = torch.arange(start, stop, dtype=torch.int64, device=input.device)
    inside = torch.ones((stop - start, *[1] * len(shape)), dtype=torch.bool, device=input.device)
    below = prod(counts(shape, window, stride))
    for axis, (size, number) in enumerate(zip(shape, counts(shape, window, stride), strict=True)):
        below //= number
        first = (index // below % number * stride[axis]).view(-1, *[1] * len(shape))
        position = torch.arange(size, device=input.device).view(-1, *[1] * (len(shape) - 1 - axis))
        inside = inside & (position >= first) & (position < first + window[axis])
    replacement = input.new_full((), fill) if baseline is None else baseline
    result = torch.where(inside[:, None], replacement, input)
    result = result.reshape((stop - start) * input.shape[0], *shape)
    return result.contiguous(memory_format=memory_format(input))


def fold(
    differences: Tensor, shape: Sequence[int], window: Sequence[int], stride: Sequence[int], average: bool
) -> Tensor:
    """Sum [K, *shape] over the windows that cover an element, of differences [P, K]; their mean with ``average``.

    Elements that no window covers (a stride above the window) are 0.
    """
    number = counts(shape, window, stride)
    result = differences.to(accumulation_dtype(differences.dtype)).T.reshape(-1, *number)
    covering = torch.ones((), dtype=torch.int64, device=differences.device)
    for axis, (size, width, step) in enumerate(zip(shape, window, stride, strict=True)):
        position = torch.arange(size, device=differences.device)
        low = ((position - width) // step + 1).clamp_min(0)
        high = (position // step).clamp_max(number[axis] - 1)
        trailing = [1] * (len(shape) - 1 - axis)
        total = torch.zeros((), dtype=result.dtype, device=result.device)
        for ahead in range(min(-(-width // step), number[axis])):
            covers = (low + ahead <= high).view(-1, *trailing)
            chosen = result.index_select(axis + 1, (low + ahead).clamp_max(number[axis] - 1))
            total = total + torch.where(covers, chosen, 0)
        result = total
        covering = covering[..., None] * (high - low + 1).clamp_min(0)
    if average:
        result = result / covering.clamp_min(1)
    return result
