"""Gaussian noise on an input, and the running moments of what comes of it.

Sample n of element e (of the whole input, in its logical order) is lane n % 4 of Philox4x32-10 at the counter
(e low, e high, n // 4, 0), made normal by Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958):
lanes 0 and 1 are a radius and an angle, whose cosine is sample 4k and whose sine is 4k + 1; lanes 2 and 3 likewise.
A uniform is (the word's upper 23 bits + 1/2) / 2^23, so never 0 or 1; the largest deviate is sqrt(48 ln 2) = 5.77.

Moments are Welford's, "Note on a Method for Calculating Corrected Sums of Squares and Products" (1962), sample by
sample: no difference of large numbers, and chunks give the bits of one call.

NaN: a NaN of the input is in each of its samples; a NaN sample reaches its own element only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastsal.reference._numerics import WORD, accumulation_dtype, memory_format, philox

BLOCK = 2**16
"""Counters drawn at once: what a round reads and writes stays in a CPU's cache."""


@torch.library.custom_op("fastsal::noise_draw", mutates_args=())
def draw(seed: int, start: int, stop: int, elements: int, device: torch.device) -> Tensor:
    """Standard normals [stop - start, elements] in float32.

    An op of its own, without derivative: a compiler that saw the rounds of Philox would fuse them into expressions
    that grow exponentially.
    """
    first = start // 4
    groups = -(-stop // 4) - first
    result = torch.empty((groups, 4, elements), dtype=torch.float32, device=device)
    for group in range(groups):
        for low in range(0, elements, BLOCK):
            high = min(low + BLOCK, elements)
            element = torch.arange(low, high, dtype=torch.int64, device=device)
            counter = [element & WORD, element >> 32, torch.full_like(element, (first + group) & WORD)]
            words = philox(seed, (*counter, torch.zeros_like(element)))
            for pair in (0, 2):
                radius = _uniform(words[pair]).log_().mul_(-2).sqrt_()
                angle = _uniform(words[pair + 1]).sub_(0.5).mul_(2 * math.pi)
                torch.mul(radius, angle.cos(), out=result[group, pair, low:high])
                torch.mul(radius, angle.sin_(), out=result[group, pair + 1, low:high])
    return result.reshape(groups * 4, elements)[start - 4 * first : stop - 4 * first].clone()


@draw.register_fake
def _(seed: int, start: int, stop: int, elements: int, device: torch.device) -> Tensor:
    return torch.empty((stop - start, elements), dtype=torch.float32, device=device)


def _uniform(words: Tensor) -> Tensor:
    return (words >> 9).to(torch.float32).add_(0.5).mul_(2.0**-23)


def batch(input: Tensor, std: Tensor | None, deviation: float, seed: int, start: int, stop: int) -> Tensor:
    """Copies [(stop - start) * B, ...] of input [B, ...] with noise, row (n - start) * B + b."""
    dtype = accumulation_dtype(input.dtype)
    normals: Tensor = draw(seed, start, stop, input.numel(), input.device).view(stop - start, *input.shape)
    scale = deviation if std is None else std.to(dtype)
    result = (input.to(dtype) + scale * normals.to(dtype)).to(input.dtype)
    result = result.reshape((stop - start) * input.shape[0], *input.shape[1:])
    return result.contiguous(memory_format=memory_format(input))


def fold(values: Tensor, samples: int, start: int, partial: Tensor | None, second: bool) -> Tensor:
    """Mean [1, B, ...] of values [samples * B, ...] and of the start before them, or that and the sum of squares.

    With ``second`` [2, B, ...]: the mean, and the sum of squared deviations from it.
    """
    dtype = accumulation_dtype(values.dtype)
    stacked = values.unflatten(0, (samples, values.shape[0] // samples))
    mean = torch.zeros(stacked.shape[1:], dtype=dtype, device=values.device) if partial is None else partial[0]
    squares = torch.zeros_like(mean) if partial is None or not second else partial[1]
    for index in range(samples):
        value = stacked[index].to(dtype)
        difference = value - mean
        mean = mean + difference * (1.0 / (start + index + 1))
        if second:
            squares = squares + difference * (value - mean)
    return torch.stack([mean, squares] if second else [mean])
