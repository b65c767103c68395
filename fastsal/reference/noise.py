"""Gaussian noise on an input, and the running moments of what comes of it.

Sample n of element e (of the whole input, in its logical order) comes from word (n % 8) // 2 of Philox4x64-10 (Salmon,
Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) at the counter (e, n // 8, 0, 0): the
64-bit kind, since NumPy has it compiled. Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958),
make normals of a word: the upper 23 bits of its low half, signed, give a radius, those of its high half an angle, whose
cosine is the even sample and whose sine is the odd one. The radius is that of the uniform (bits + 1/2) / 2^23 + 1/2, so
never of 0 or 1, and the angle 2 pi (bits + 1/2) / 2^23; the largest deviate is sqrt(48 ln 2) = 5.77.

Moments are Welford's, "Note on a Method for Calculating Corrected Sums of Squares and Products" (1962), sample by
sample: no difference of large numbers, and chunks give the bits of one call.

NaN: a NaN of the input is in each of its samples; a NaN sample reaches its own element only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastsal.reference._numerics import accumulation_dtype, memory_format, philox4x64

SAMPLES = 8
"""Of one counter."""


@torch.library.custom_op("fastsal::noise_draw", mutates_args=())
def draw(seed: int, start: int, stop: int, elements: int, device: torch.device) -> Tensor:
    """Standard normals [stop - start, elements] in float32.

    An op of its own, without derivative: a compiler that saw the rounds of Philox would fuse them into expressions
    that grow exponentially. A CPU has a faster way to the same numbers (``fastsal.ops.noise``).
    """
    result = torch.empty((stop - start, elements), dtype=torch.float32, device=device)
    element = torch.arange(elements, dtype=torch.int64, device=device)
    for group in range(start // SAMPLES, -(-stop // SAMPLES)):
        first, rows, wanted = rows_of(group, start, stop)
        words = torch.stack(philox4x64(seed, element, group))[first // 2 : -(-wanted // 2)]
        halves = torch.stack([words << 32, words], 1).flatten(0, 1) >> 32
        result[rows] = normals(halves.to(torch.int32))[first % 2 :][: wanted - first]
    return result


@draw.register_fake
def _(seed: int, start: int, stop: int, elements: int, device: torch.device) -> Tensor:
    return torch.empty((stop - start, elements), dtype=torch.float32, device=device)


def rows_of(group: int, start: int, stop: int) -> tuple[int, slice, int]:
    """A counter group's first wanted sample, its rows among the samples start to stop, and the end of the wanted."""
    first = max(start - group * SAMPLES, 0)
    last = min(stop - group * SAMPLES, SAMPLES)
    return first, slice(group * SAMPLES + first - start, group * SAMPLES + last - start), last


def normals(words: Tensor, out: Tensor | None = None) -> Tensor:
    """int32 halves of words [2 n, m], low before high, into normals [2 n, m]. Writes to the words."""
    result = torch.empty(words.shape, dtype=torch.float32, device=words.device) if out is None else out
    bits = words.bitwise_right_shift_(9).to(torch.float32)
    radius = bits[0::2].add_(2**22 + 0.5).mul_(2.0**-23).log_().mul_(-2).sqrt_()
    angle = bits[1::2].add_(0.5).mul_(2 * math.pi * 2.0**-23)
    torch.mul(radius, angle.cos(), out=result[0::2])
    torch.mul(radius, angle.sin_(), out=result[1::2])
    return result


def batch(input: Tensor, std: Tensor | None, deviation: float, seed: int, start: int, stop: int) -> Tensor:
    """Copies [(stop - start) * B, ...] of input [B, ...] with noise, row (n - start) * B + b."""
    dtype = accumulation_dtype(input.dtype)
    normals: Tensor = draw(seed, start, stop, input.numel(), input.device).view(stop - start, *input.shape).to(dtype)
    x = input.to(dtype)
    result = normals.mul_(deviation).add_(x) if std is None else torch.addcmul(x, std.to(dtype), normals)
    result = result.to(input.dtype).reshape((stop - start) * input.shape[0], *input.shape[1:])
    return result.contiguous(memory_format=memory_format(input))


def fold(values: Tensor, samples: int, start: int, partial: Tensor | None, second: bool) -> Tensor:
    """Mean [1, B, ...] of values [samples * B, ...] and of the start before them, or that and the sum of squares.

    With ``second`` [2, B, ...]: the mean, and the sum of squared deviations from it.
    """
    dtype = accumulation_dtype(values.dtype)
    stacked = values.unflatten(0, (samples, values.shape[0] // samples))
    mean = torch.zeros(stacked.shape[1:], dtype=dtype, device=values.device) if partial is None else partial[0]
    squares = torch.zeros_like(mean) if partial is None or not second else partial[1]
    for index, sample in enumerate(stacked.unbind()):
        value = sample.to(dtype)
        difference = value - mean
        mean = torch.add(mean, difference, alpha=1.0 / (start + index + 1))
        if second:
            squares = torch.addcmul(squares, difference, value - mean)
    return torch.stack([mean, squares] if second else [mean])
