"""Integrated Gradients: the points of the straight path, and the weighted gradient sum."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import cdiv, dense_like, launch, per_program, vector_width
from fastsal_kernels._tuning import setting


@triton.jit(do_not_specialize=["steps", "size_in_vectors", "fill"])
def batch_kernel(
    out_ptr,
    x_ptr,
    baseline_ptr,
    alpha_ptr,
    steps,
    size_in_vectors,
    fill,
    VECTOR: tl.constexpr,
    BASELINE: tl.constexpr,  # 1: a number, 2: a tensor in the layout of x
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """out[k] = b + alpha_k (x - b), from the nearer end, so exact at both. Bytes: the result, x per STEPS steps."""
    size = tl.cast(size_in_vectors, tl.int64) * VECTOR
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = e < size
    x = tl.load(x_ptr + e, mask=valid, other=0.0).to(tl.float32)
    if BASELINE == 2:
        baseline = tl.load(baseline_ptr + e, mask=valid, other=0.0).to(tl.float32)
    else:
        baseline = tl.zeros([BLOCK], tl.float32) + fill
    difference = x - baseline
    first = tl.program_id(1) * STEPS
    for k in range(first, tl.minimum(first + STEPS, steps)):
        alpha = tl.load(alpha_ptr + k).to(tl.float32)
        anchor = tl.where(alpha < 0.5, baseline, x)
        point = anchor + tl.where(alpha < 0.5, alpha, alpha - 1.0) * difference
        tl.store(out_ptr + tl.cast(k, tl.int64) * size + e, point.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["steps", "size_in_vectors", "fill"])
def fold_kernel(
    out_ptr,
    gradient_ptr,
    weight_ptr,
    x_ptr,
    baseline_ptr,
    partial_ptr,
    steps,
    size_in_vectors,
    fill,
    VECTOR: tl.constexpr,
    INPUT: tl.constexpr,
    BASELINE: tl.constexpr,  # 1: a number, 2: a tensor in the layout of x
    PARTIAL: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = (x - b) (partial + sum_k w_k g_k), or without the factor. Bytes: gradients, x, b, partial, out.

    UNROLL loads are in flight at once; steps add up one after the other, so chunks give the bits of one call.
    """
    size = tl.cast(size_in_vectors, tl.int64) * VECTOR
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = e < size
    if PARTIAL:
        total = tl.load(partial_ptr + e, mask=valid, other=0.0)
    else:
        total = tl.zeros([BLOCK], tl.float32)
    for k in range(0, steps, UNROLL):
        for ahead in tl.static_range(UNROLL):
            step = k + ahead
            weight = tl.load(weight_ptr + step, mask=step < steps, other=0.0).to(tl.float32)
            where = gradient_ptr + tl.cast(step, tl.int64) * size + e
            gradient = tl.load(where, mask=valid & (step < steps), other=0.0)
            total += weight * gradient.to(tl.float32)
    if INPUT:
        x = tl.load(x_ptr + e, mask=valid, other=0.0).to(tl.float32)
        if BASELINE == 2:
            baseline = tl.load(baseline_ptr + e, mask=valid, other=0.0).to(tl.float32)
        else:
            baseline = tl.zeros([BLOCK], tl.float32) + fill
        total = (x - baseline) * total
    tl.store(out_ptr + e, total.to(out_ptr.dtype.element_ty), mask=valid)


def batch(out: Tensor, input: Tensor, alphas: Tensor, baseline: Tensor | None, fill: float) -> None:
    """Launch ``fastsal::path_batch``."""
    size, count = input.numel(), alphas.shape[0]
    x = dense_like(input, out)
    vector = vector_width(size)
    blocks = setting("path.batch", size, input.device)
    steps, block = per_program(count, blocks["items"]), blocks["block"]
    launch(
        batch_kernel,
        (cdiv(size, block), cdiv(count, steps)),
        out,
        x,
        x if baseline is None else dense_like(baseline, out),
        alphas.contiguous(),
        count,
        size // vector,
        fill,
        VECTOR=vector,
        BASELINE=1 if baseline is None else 2,
        BLOCK=block,
        STEPS=steps,
        num_warps=blocks["num_warps"],
    )


def fold(
    out: Tensor,
    gradients: Tensor,
    weights: Tensor,
    input: Tensor | None,
    baseline: Tensor | None,
    fill: float,
    partial: Tensor | None,
) -> None:
    """Launch ``fastsal::path_fold``."""
    size = out.numel()
    vector = vector_width(size)
    blocks = setting("path.fold", size, out.device)
    block = blocks["block"]
    launch(
        fold_kernel,
        (cdiv(size, block),),
        out,
        dense_like(gradients, out),
        weights.contiguous(),
        out if input is None else dense_like(input, out),
        out if baseline is None else dense_like(baseline, out),
        out if partial is None else dense_like(partial, out),
        weights.shape[0],
        size // vector,
        fill,
        VECTOR=vector,
        INPUT=input is not None,
        BASELINE=1 if baseline is None else 2,
        PARTIAL=partial is not None,
        UNROLL=blocks["unroll"],
        BLOCK=block,
        num_warps=blocks["num_warps"],
    )
