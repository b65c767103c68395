"""The straight-line path of Integrated Gradients, and the weighted gradient sum along it.

Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks" (ICML 2017), equations 1 and 3.

NaN: a point of the path is anchor + weight * (input - baseline), so a NaN of the input or the baseline is in every
step; a NaN gradient reaches its own element only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.reference._numerics import accumulation_dtype, memory_format


def batch(input: Tensor, alphas: Tensor, baseline: Tensor | None, fill: float) -> Tensor:
    """Points [n * B, ...] between baseline (alpha 0) and input (alpha 1) [B, ...], exact at both; row k * B + b."""
    dtype = accumulation_dtype(input.dtype)
    x = input.to(dtype)
    b = x.new_full((), fill) if baseline is None else baseline.to(dtype)
    alpha = alphas.to(dtype).view(-1, *[1] * input.dim())
    result = torch.lerp(b, x, alpha)
    result = result.to(input.dtype).reshape(alphas.shape[0] * input.shape[0], *input.shape[1:])
    return result.contiguous(memory_format=memory_format(input))


def fold(
    gradients: Tensor,
    weights: Tensor,
    input: Tensor | None,
    baseline: Tensor | None,
    fill: float,
    partial: Tensor | None,
) -> Tensor:
    """Sum over k of weights[k] * gradients[k * B + b], added to partial; times (input - baseline) where input is given.

    Steps are added one after the other, so that chunks through ``partial`` give the bits of one call.
    """
    steps = weights.shape[0]
    dtype = accumulation_dtype(gradients.dtype)
    stacked = gradients.unflatten(0, (steps, gradients.shape[0] // steps))
    total = torch.zeros(stacked.shape[1:], dtype=dtype, device=gradients.device) if partial is None else partial
    for weight, step in zip(weights.to(dtype).unbind(), stacked.unbind(), strict=True):
        total = torch.addcmul(total, weight, step.to(dtype))
    if input is None:
        return total.contiguous(memory_format=memory_format(gradients))
    x = input.to(dtype)
    difference = x - (fill if baseline is None else baseline.to(dtype))
    return (difference * total).to(input.dtype).contiguous(memory_format=memory_format(input))
