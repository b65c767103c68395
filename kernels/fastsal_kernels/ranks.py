"""Deletion and insertion: the batch in which the elements of the lowest ranks are another input's."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import cdiv, dense_like, launch, per_program, vector_width


@triton.jit(do_not_specialize=["steps", "size_in_vectors", "example_in_vectors", "positions"])
def batch_kernel(
    out_ptr,
    x_ptr,
    other_ptr,
    rank_ptr,
    count_ptr,
    steps,
    size_in_vectors,
    example_in_vectors,
    positions,
    INTERLEAVED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """out[k] = other where rank < count_k, x elsewhere. Bytes: the result; x, other and ranks once per STEPS steps.

    A program keeps its elements in registers and writes them once per step. INTERLEAVED: channels per position.
    """
    size = tl.cast(size_in_vectors, tl.int64) * VECTOR
    example = tl.cast(example_in_vectors, tl.int64) * VECTOR
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = e < size
    b = e // example
    if INTERLEAVED == 1:
        position = e % positions
    else:
        position = e % example // INTERLEAVED
    x = tl.load(x_ptr + e, mask=valid, other=0.0)
    other = tl.load(other_ptr + e, mask=valid, other=0.0)
    rank = tl.load(rank_ptr + b * positions + position, mask=valid, other=0)
    first = tl.program_id(1) * STEPS
    for k in range(first, tl.minimum(first + STEPS, steps)):
        count = tl.load(count_ptr + k)
        tl.store(out_ptr + tl.cast(k, tl.int64) * size + e, tl.where(rank < count, other, x), mask=valid)


def batch(out: Tensor, input: Tensor, other: Tensor, ranks: Tensor, counts: Tensor) -> None:
    """Launch ``fastsal::ranks_batch``."""
    size, steps = input.numel(), counts.shape[0]
    example = size // input.shape[0]
    vector = vector_width(example)
    taken, block = per_program(steps, 16), 1024
    launch(
        batch_kernel,
        (cdiv(size, block), cdiv(steps, taken)),
        out,
        dense_like(input, out),
        dense_like(other, out),
        ranks.contiguous(),
        counts.contiguous(),
        steps,
        size // vector,
        example // vector,
        ranks.numel() // input.shape[0],
        INTERLEAVED=1 if out.is_contiguous() else input.shape[1],
        VECTOR=vector,
        BLOCK=block,
        STEPS=taken,
        num_warps=4,
    )
