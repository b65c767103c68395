"""Gaussian noise on an input and the running moments of attributions. Meaning: :mod:`fastsal.reference.noise`.

Bytes: ``batch`` writes (stop - start) * numel(input) elements and reads input (and a tensor std) once per eight of the
samples; ``fold`` reads the values and the partial moments once and writes the moments.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal._torch import call_without_dynamo
from fastsal.ops._arguments import index_range
from fastsal.ops._define import Op
from fastsal.ops._vmap import one_by_one, to_front
from fastsal.reference import noise as reference
from fastsal.reference._numerics import accumulation_dtype, memory_format

BLOCK = 2**14
"""Counters that NumPy draws at once: what a step reads and writes stays in a CPU's cache."""


@reference.draw.register_kernel("cpu")
def _draw(seed: int, start: int, stop: int, elements: int, device: torch.device) -> Tensor:
    result = torch.empty((stop - start, elements), dtype=torch.float32, device="cpu")
    for group in range(start // reference.SAMPLES, -(-stop // reference.SAMPLES)):
        # NumPy counts up before it draws.
        philox = np.random.Philox(key=seed % 2**64, counter=((group << 64) - 1) % 2**256)
        first, rows, last = reference.rows_of(group, start, stop)
        for low in range(0, elements, BLOCK):
            count = min(BLOCK, elements - low)
            words = torch.from_numpy(philox.random_raw(4 * count).view(np.int32)).view(count, reference.SAMPLES).T
            words = words[first // 2 * 2 : -(-last // 2) * 2].contiguous()
            drawn = result[rows, low : low + count]
            if last - first == reference.SAMPLES:
                reference.normals(words, out=drawn)
            else:
                drawn.copy_(reference.normals(words)[first % 2 :][: last - first])
    return result


call_without_dynamo(reference.draw)


def _empty_batch(input: Tensor, std: Any, deviation: Any, seed: Any, start: Any, stop: Any) -> Tensor:
    shape = ((stop - start) * input.shape[0], *input.shape[1:])
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))


def _vmap_batch(info: Any, dims: tuple[Any, ...], *args: Any) -> Any:
    # Each element draws what it would draw alone, so its rows cannot be drawn as one longer batch.
    return one_by_one(_batch.overload, info, dims, args)


_batch = Op(
    "noise_batch(Tensor input, Tensor? std, float deviation, int seed, SymInt start, SymInt stop) -> Tensor",
    reference=reference.batch,
    kernel="noise.batch",
    empty=_empty_batch,
    vmap=_vmap_batch,
)


def _empty_fold(values: Tensor, samples: Any, start: Any, partial: Any, second: Any) -> Tensor:
    shape = (2 if second else 1, values.shape[0] // samples, *values.shape[1:])
    return torch.empty(shape, dtype=accumulation_dtype(values.dtype), device=values.device)


def _vmap_fold(info: Any, dims: tuple[Any, ...], values: Tensor, samples: Any, *rest: Any) -> Any:
    size, (start, partial, second) = info.batch_size, rest
    front = to_front(values, dims[0], size)
    assert front is not None
    merged = front.unflatten(1, (samples, front.shape[1] // samples)).movedim(0, 1).flatten(0, 2)
    moments = to_front(partial, dims[3], size)
    if moments is not None:
        moments = moments.movedim(0, 1).flatten(1, 2)
    result = _fold.overload(merged, samples, start, moments, second)
    return result.unflatten(1, (size, result.shape[1] // size)), 1


_fold = Op(
    "noise_fold(Tensor values, SymInt samples, SymInt start, Tensor? partial, bool second) -> Tensor",
    reference=reference.fold,
    kernel="noise.fold",
    empty=_empty_fold,
    vmap=_vmap_fold,
)


def batch(input: Tensor, start: int, stop: int, *, std: float | Tensor, seed: int) -> Tensor:
    """input + std * z, for the samples start to stop of standard normal noise z.

    Args:
        input: [B, ...], floating point.
        start, stop: range of sample indices; a sample's noise does not depend on the range.
        std: standard deviation, not negative: a number, or a tensor that broadcasts to input.
        seed: chooses the noise.

    Returns:
        [(stop - start) * B, ...] in the input's dtype and memory format, row (n - start) * B + b.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    if input.dim() < 1 or not input.is_floating_point():
        raise ValueError(f"input: {input.dtype} of shape {tuple(input.shape)} is not floating point of shape [B, ...]")
    index_range(start, stop)
    try:
        seed = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed: {seed!r} is not an int") from None
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: {seed} does not fit in 64 bits")
    if isinstance(std, Tensor):
        try:
            std.expand(input.shape)
        except RuntimeError:
            shapes = f"{tuple(std.shape)} does not broadcast to the input's {tuple(input.shape)}"
            raise ValueError(f"std: shape {shapes}") from None
        return _batch(input, std.expand(input.shape), 0.0, seed, start, stop)
    if isinstance(std, bool) or not isinstance(std, (int, float)):
        raise TypeError(f"std: {type(std).__name__} is neither a number nor a tensor")
    if not (std >= 0 and math.isfinite(std)):
        raise ValueError(f"std: {std} is not a finite number of at least 0")
    return _batch(input, None, float(std), seed, start, stop)


def fold(
    values: Tensor, samples: int, *, start: int = 0, partial: Tensor | None = None, second: bool = False
) -> Tensor:
    """Running moments over samples, in float32 (float64 for float64).

    Args:
        values: [samples * B, ...], row n * B + b, floating point.
        samples: number of samples in values.
        start: number of samples folded before, into ``partial``.
        partial: the result for those; chunks give the bits of one call.
        second: also the second moment.

    Returns:
        [1, B, ...]: the mean; with ``second`` [2, B, ...]: that, and the sum of squared deviations from it.

    Raises:
        ValueError: for arguments outside of the above.
    """
    if samples < 1 or values.dim() < 1 or values.shape[0] % samples or not values.is_floating_point():
        given = f"{values.dtype} of shape {tuple(values.shape)}"
        raise ValueError(f"values: {given} is not floating point with {samples} >= 1 rows per example")
    if (partial is None) != (start == 0) or start < 0:
        raise ValueError(f"start: {start} samples before, but partial is {'None' if partial is None else 'given'}")
    if partial is not None:
        shape = (2 if second else 1, values.shape[0] // samples, *values.shape[1:])
        if tuple(partial.shape) != shape or partial.dtype != accumulation_dtype(values.dtype):
            given = f"{partial.dtype} of shape {tuple(partial.shape)}"
            raise ValueError(f"partial: {given} is not {accumulation_dtype(values.dtype)} of shape {shape}")
    return _fold(values, samples, start, partial, second)
