"""Of attention, the largest or the least weight over heads: sums of rows and of columns."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import INTERPRETED, cdiv, launch
from fastsal_kernels._tiles import LOG2E, blocks_of, dense, load_rows, logits, mask_of, taking_part, width_of


@triton.jit(do_not_specialize=["queries", "keys", "heads", "group", "scale"])
def extreme_kernel(
    out_ptr,
    q_ptr,
    k_ptr,
    w_ptr,
    lse_ptr,
    mask_ptr,
    queries,
    keys,
    heads,
    group,
    scale,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    w_b,
    w_n,
    mask_b,
    mask_h,
    mask_m,
    mask_n,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    LARGEST: tl.constexpr,
    MASK: tl.constexpr,  # 0: none, 1: bytes, 2: numbers that are added
    CAUSAL: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Of F = max or min over heads of A, out[b, i] = sum_j F_ij (ROWS), or out[b, j] = sum_i w_i F_ij.

    Bytes: q, k, w, lse, mask and out. One program for some rows or columns; heads are innermost, so that a tile of F
    stays on the chip.
    """
    fixed_count = queries if ROWS else keys
    fixed_block: tl.constexpr = BLOCK_M if ROWS else BLOCK_N
    blocks = tl.cdiv(fixed_count, fixed_block)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    fixed = tl.program_id(0) % blocks * fixed_block
    total = tl.zeros([fixed_block], tl.float32)
    for step in range(0, keys if ROWS else queries, BLOCK_N if ROWS else BLOCK_M):
        m = (fixed if ROWS else step) + tl.arange(0, BLOCK_M)
        n = (step if ROWS else fixed) + tl.arange(0, BLOCK_N)
        found = tl.full([BLOCK_M, BLOCK_N], 0.0 if LARGEST else float("inf"), tl.float32)
        for h in range(0, heads):
            at = tl.cast(h, tl.int64)
            part, added = taking_part(
                mask_ptr + b * mask_b + at * mask_h, m, n, queries, keys, mask_m, mask_n, MASK, CAUSAL
            )
            q = load_rows(q_ptr + b * q_b + at * q_h, m, queries, q_n, D, BLOCK_D, WIDE)
            k = load_rows(k_ptr + b * k_b + at // group * k_h, n, keys, k_n, D, BLOCK_D, WIDE)
            s = logits(q, k, part, added, scale, MASK)
            lse = tl.load(lse_ptr + (b * heads + at) * queries + m, mask=m < queries, other=0.0) * LOG2E
            p = tl.exp2(s - tl.where(lse == float("-inf"), 0.0, lse)[:, None])
            if LARGEST:
                found = tl.maximum(found, p, propagate_nan=tl.PropagateNan.ALL)
            else:
                found = tl.minimum(found, p, propagate_nan=tl.PropagateNan.ALL)
        if ROWS:
            total += tl.sum(found, axis=1)
        else:
            w = tl.load(w_ptr + b * w_b + m.to(tl.int64) * w_n, mask=m < queries, other=0.0)
            total += tl.sum(w[:, None] * found, axis=0)
    at = fixed + tl.arange(0, fixed_block)
    tl.store(out_ptr + b * fixed_count + at, total, mask=at < fixed_count)


def extreme(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    weights: Tensor | None,
    lse: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    largest: bool,
) -> None:
    """Launch ``fastsal::attention_extreme``."""
    q, k = dense(query), dense(key)
    batch, heads, queries, width = q.shape
    given, strides, kind = mask_of(mask, q)
    blocks = blocks_of(q.dtype, 2 * width)  # smaller ones, since the tile of all heads is kept beside that of one
    rows = weights is None
    count = cdiv(queries, blocks.queries) if rows else cdiv(k.shape[2], blocks.keys)
    by = out if weights is None else weights
    launch(
        extreme_kernel,
        (batch * count,),
        out,
        q,
        k,
        by,
        lse.contiguous(),
        given,
        queries,
        k.shape[2],
        heads,
        heads // k.shape[1],
        scale,
        *q.stride()[:3],
        *k.stride()[:3],
        *by.stride(),
        *strides,
        D=width,
        BLOCK_D=width_of(width),
        ROWS=rows,
        LARGEST=largest,
        MASK=kind,
        CAUSAL=causal,
        WIDE=INTERPRETED,
        BLOCK_M=blocks.queries,
        BLOCK_N=blocks.keys,
        num_warps=blocks.warps,
    )
