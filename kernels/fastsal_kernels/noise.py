"""SmoothGrad: the noisy batch, and the running moments of its attributions."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import INTERPRETED, cdiv, dense_like, launch, vector_width
from fastsal_kernels._tuning import setting

HARDWARE = tl.constexpr(not INTERPRETED)
RADIANS = tl.constexpr(2 * math.pi * 2.0**-23)
"""Of one step of an angle in 23 bits."""


@triton.jit
def _cosine(angle):
    """tl.cos reduces any argument, with a local stack; these lie within half a turn, where the error is 2^-20.5."""
    if HARDWARE:
        return tl.inline_asm_elementwise(
            "cos.approx.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.cos(angle)


@triton.jit
def _sine(angle):
    if HARDWARE:
        return tl.inline_asm_elementwise(
            "sin.approx.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.sin(angle)


@triton.jit
def _store(out_ptr, n, start, stop, size, e, valid, value):
    where = out_ptr + tl.cast(n - start, tl.int64) * size + e
    tl.store(where, value.to(out_ptr.dtype.element_ty), mask=valid & (n >= start) & (n < stop))


@triton.jit
def _pair(out_ptr, n, start, stop, size, e, valid, x, std, word):
    """Samples n and n + 1 from one word of 64 bits: a radius of its low half, an angle of its high half."""
    low = (word & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True) >> 9
    high = (word >> 32).to(tl.uint32).to(tl.int32, bitcast=True) >> 9
    uniform = (low.to(tl.float32) + 4194304.5) * (1.0 / 8388608.0)
    radius = tl.sqrt(tl.maximum(-2.0 * tl.log(uniform), 0.0))
    angle = (high.to(tl.float32) + 0.5) * RADIANS
    _store(out_ptr, n, start, stop, size, e, valid, x + std * (radius * _cosine(angle)))
    _store(out_ptr, n + 1, start, stop, size, e, valid, x + std * (radius * _sine(angle)))


@triton.jit(do_not_specialize=["seed", "start", "stop", "size_in_vectors", "inner", "channels", "deviation"])
def batch_kernel(
    out_ptr,
    x_ptr,
    std_ptr,
    seed: tl.int64,
    start: tl.int64,
    stop: tl.int64,
    size_in_vectors,
    inner,
    channels,
    deviation,
    VECTOR: tl.constexpr,
    TENSOR: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[n] = x + std z[n], eight samples a Philox call. Bytes: the result, and x (and std) per eight samples.

    INTERLEAVED: memory order is channels_last, while noise is numbered in logical order.
    """
    size = tl.cast(size_in_vectors, tl.int64) * VECTOR
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = e < size
    x = tl.load(x_ptr + e, mask=valid, other=0.0).to(tl.float32)
    if TENSOR:
        std = tl.load(std_ptr + e, mask=valid, other=0.0).to(tl.float32)
    else:
        std = tl.zeros([BLOCK], tl.float32) + deviation
    if INTERLEAVED:
        image = tl.cast(inner, tl.int64) * channels
        within = e % image
        number = e - within + (within % channels) * inner + within // channels
    else:
        number = e
    group = tl.cast(start // 8 + tl.program_id(1), tl.int64)
    zero = tl.zeros([BLOCK], tl.uint64)
    w0, w1, w2, w3 = tl.philox(seed, number.to(tl.uint64), zero + group.to(tl.uint64), zero, zero)
    n = group * 8
    _pair(out_ptr, n, start, stop, size, e, valid, x, std, w0)
    _pair(out_ptr, n + 2, start, stop, size, e, valid, x, std, w1)
    _pair(out_ptr, n + 4, start, stop, size, e, valid, x, std, w2)
    _pair(out_ptr, n + 6, start, stop, size, e, valid, x, std, w3)


@triton.jit(do_not_specialize=["samples", "start", "size_in_vectors"])
def fold_kernel(
    out_ptr,
    value_ptr,
    partial_ptr,
    samples,
    start,
    size_in_vectors,
    VECTOR: tl.constexpr,
    SECOND: tl.constexpr,
    PARTIAL: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Welford's mean and sum of squared deviations, sample by sample. Bytes: values, partial, out.

    UNROLL loads are in flight at once; chunks give the bits of one call.
    """
    size = tl.cast(size_in_vectors, tl.int64) * VECTOR
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = e < size
    mean = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    if PARTIAL:
        mean = tl.load(partial_ptr + e, mask=valid, other=0.0)
        if SECOND:
            squares = tl.load(partial_ptr + size + e, mask=valid, other=0.0)
    for k in range(0, samples, UNROLL):
        for ahead in tl.static_range(UNROLL):
            n = k + ahead
            where = value_ptr + tl.cast(n, tl.int64) * size + e
            value = tl.load(where, mask=valid & (n < samples), other=0.0).to(tl.float32)
            share = tl.where(n < samples, 1.0 / (start + n + 1).to(tl.float32), 0.0)
            difference = value - mean
            mean = mean + difference * share
            if SECOND:
                squares += tl.where(n < samples, difference * (value - mean), 0.0)
    tl.store(out_ptr + e, mean, mask=valid)
    if SECOND:
        tl.store(out_ptr + size + e, squares, mask=valid)


def batch(out: Tensor, input: Tensor, std: Tensor | None, deviation: float, seed: int, start: int, stop: int) -> None:
    """Launch ``fastsal::noise_batch``."""
    size = input.numel()
    x = dense_like(input, out)
    interleaved = not out.is_contiguous()
    channels = out.shape[1] if interleaved else 1
    vector = vector_width(size)
    blocks = setting("noise.batch", size, input.device)
    block = blocks["bytes"] // out.element_size()
    launch(
        batch_kernel,
        (cdiv(size, block), cdiv(stop, 8) - start // 8),
        out,
        x,
        x if std is None else dense_like(std, out),
        seed,
        start,
        stop,
        size // vector,
        size // (input.shape[0] * channels),
        channels,
        deviation,
        VECTOR=vector,
        TENSOR=std is not None,
        INTERLEAVED=interleaved,
        BLOCK=block,
        num_warps=blocks["num_warps"],
    )


def fold(out: Tensor, values: Tensor, samples: int, start: int, partial: Tensor | None, second: bool) -> None:
    """Launch ``fastsal::noise_fold``."""
    size = out[0].numel()
    vector = vector_width(size)
    blocks = setting("noise.fold", size, out.device)
    block = blocks["block"]
    launch(
        fold_kernel,
        (cdiv(size, block),),
        out,
        values.contiguous(),
        out if partial is None else partial.contiguous(),
        samples,
        start,
        size // vector,
        VECTOR=vector,
        SECOND=second,
        PARTIAL=partial is not None,
        UNROLL=blocks["unroll"],
        BLOCK=block,
        num_warps=blocks["num_warps"],
    )
