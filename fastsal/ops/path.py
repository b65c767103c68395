"""The path batch of Integrated Gradients and its fold. Meaning: :mod:`fastsal.reference.path`.

Bytes: ``batch`` writes n * numel(input) elements and reads input (and a tensor baseline) once; ``fold`` reads the
gradients, the input and the baseline once and writes one attribution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.ops._arguments import split_baseline
from fastsal.ops._define import Op
from fastsal.ops._vmap import into_batch, one_by_one, rows_out, to_front
from fastsal.reference import path as reference
from fastsal.reference._numerics import accumulation_dtype, memory_format


def _empty_batch(input: Tensor, alphas: Tensor, *rest: Any) -> Tensor:
    shape = (alphas.shape[0] * input.shape[0], *input.shape[1:])
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))


def _vmap_batch(
    info: Any, dims: tuple[Any, ...], input: Tensor, alphas: Tensor, baseline: Tensor | None, fill: float
) -> Any:
    if dims[1] is not None:
        return one_by_one(_batch.overload, info, dims, (input, alphas, baseline, fill))
    size = info.batch_size
    merged = _batch.overload(into_batch(input, dims[0], size), alphas, into_batch(baseline, dims[2], size), fill)
    return rows_out(merged, alphas.shape[0], size)


_batch = Op(
    "path_batch(Tensor input, Tensor alphas, Tensor? baseline, float fill) -> Tensor",
    reference=reference.batch,
    kernel="path.batch",
    empty=_empty_batch,
    vmap=_vmap_batch,
)


def _empty_fold(gradients: Tensor, weights: Tensor, input: Tensor | None, *rest: Any) -> Tensor:
    shape = (gradients.shape[0] // weights.shape[0], *gradients.shape[1:])
    like = gradients if input is None else input
    dtype = accumulation_dtype(gradients.dtype) if input is None else input.dtype
    return torch.empty(shape, dtype=dtype, device=gradients.device, memory_format=memory_format(like))


def _vmap_fold(info: Any, dims: tuple[Any, ...], gradients: Tensor, weights: Tensor, *rest: Any) -> Any:
    if dims[1] is not None:
        return one_by_one(_fold.overload, info, dims, (gradients, weights, *rest))
    size, steps = info.batch_size, weights.shape[0]
    front = to_front(gradients, dims[0], size)
    assert front is not None
    merged = front.unflatten(1, (steps, front.shape[1] // steps)).movedim(0, 1).flatten(0, 2)
    input, baseline, fill, partial = rest
    tensors = [into_batch(tensor, dims[i], size) for i, tensor in ((2, input), (3, baseline), (5, partial))]
    result = _fold.overload(merged, weights, tensors[0], tensors[1], fill, tensors[2])
    return result.unflatten(0, (size, result.shape[0] // size)), 0


_fold = Op(
    "path_fold(Tensor gradients, Tensor weights, Tensor? input, Tensor? baseline, float fill, "
    "Tensor? partial) -> Tensor",
    reference=reference.fold,
    kernel="path.fold",
    empty=_empty_fold,
    vmap=_vmap_fold,
)


def _steps(name: str, values: Tensor, device: torch.device) -> None:
    if values.dim() != 1 or values.shape[0] < 1 or not values.is_floating_point():
        given = f"{values.dtype} of shape {tuple(values.shape)}"
        raise ValueError(f"{name}: {given} is not floating point of shape [n] with n >= 1")
    if values.device != device:
        raise ValueError(f"{name}: it is on {values.device}, the input on {device}")


def batch(input: Tensor, alphas: Tensor, *, baseline: float | Tensor = 0.0) -> Tensor:
    """Points baseline + alpha * (input - baseline) of the straight path, exact at alpha 0 and 1.

    Args:
        input: [B, ...], floating point.
        alphas: [n], floating point, on the input's device.
        baseline: a number, or a tensor that broadcasts to input.

    Returns:
        [n * B, ...] in the input's dtype and memory format, row k * B + b.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    if input.dim() < 1 or not input.is_floating_point():
        raise ValueError(f"input: {input.dtype} of shape {tuple(input.shape)} is not floating point of shape [B, ...]")
    _steps("alphas", alphas, input.device)
    tensor, fill = split_baseline(input, baseline)
    return _batch(input, alphas, tensor, fill)


def fold(
    gradients: Tensor,
    weights: Tensor,
    *,
    input: Tensor | None = None,
    baseline: float | Tensor = 0.0,
    partial: Tensor | None = None,
) -> Tensor:
    """Weighted gradient sum, accumulated in float32 (float64 for float64), added to ``partial``.

    Args:
        gradients: [n * B, ...], row k * B + b, floating point.
        weights: [n], floating point.
        input: [B, ...]; where given, the result is the attribution (input - baseline) * sum.
        baseline: as in :func:`batch`; of no effect without input.
        partial: [B, ...], the result of earlier steps folded without input; chunks give the bits of one call.

    Returns:
        [B, ...]: the attribution in the input's dtype, or without input the sum in the accumulation dtype.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """
    _steps("weights", weights, gradients.device)
    steps = weights.shape[0]
    if gradients.dim() < 1 or gradients.shape[0] % steps or not gradients.is_floating_point():
        given = f"{gradients.dtype} of shape {tuple(gradients.shape)}"
        raise ValueError(f"gradients: {given} is not floating point with {steps} rows (one per weight) per example")
    shape = (gradients.shape[0] // steps, *gradients.shape[1:])
    for name, tensor in (("input", input), ("partial", partial)):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} is not {shape}, that of the gradients of one step")
    if partial is not None and partial.dtype != accumulation_dtype(gradients.dtype):
        raise ValueError(f"partial: {partial.dtype} is not {accumulation_dtype(gradients.dtype)}")
    if input is None:
        return _fold(gradients, weights, None, None, 0.0, partial)
    tensor, fill = split_baseline(input, baseline)
    return _fold(gradients, weights, input, tensor, fill, partial)
