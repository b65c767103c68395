"""What explainers read of attention: log-sum-exp of logits and sums over queries, in tiles that stay on the chip."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import INTERPRETED, cdiv, launch
from fastsal_kernels._tiles import LOG2E, blocks_of, dense, load_rows, logits, mask_of, taking_part, width_of


@triton.jit(do_not_specialize=["queries", "keys", "heads", "group", "scale"])
def logsumexp_kernel(
    out_ptr,
    q_ptr,
    k_ptr,
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
    mask_b,
    mask_h,
    mask_m,
    mask_n,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASK: tl.constexpr,  # 0: none, 1: bytes, 2: numbers that are added
    CAUSAL: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """out[b, h, i] = log sum_j exp(scale q_i k_j + mask_ij). Bytes: q, k, mask, out. One program for some queries."""
    blocks = tl.cdiv(queries, BLOCK_M)
    row = tl.program_id(0) // blocks
    b, h = (row // heads).to(tl.int64), (row % heads).to(tl.int64)
    first = tl.program_id(0) % blocks * BLOCK_M
    m = first + tl.arange(0, BLOCK_M)
    q = load_rows(q_ptr + b * q_b + h * q_h, m, queries, q_n, D, BLOCK_D, WIDE)
    k_ptr += b * k_b + h // group * k_h
    mask_ptr += b * mask_b + h * mask_h
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    end = tl.minimum(keys, first + BLOCK_M) if CAUSAL else keys
    for start in range(0, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        part, added = taking_part(mask_ptr, m, n, queries, keys, mask_m, mask_n, MASK, CAUSAL)
        s = logits(q, load_rows(k_ptr, n, keys, k_n, D, BLOCK_D, WIDE), part, added, scale, MASK)
        # Of a NaN the maximum is another number, but its exponential is NaN all the same.
        new = tl.maximum(top, tl.max(s, axis=1))
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(top - base) + tl.sum(tl.exp2(s - base[:, None]), axis=1)
        top = new
    none = top == float("-inf")
    found = tl.where(none & (total == 0.0), top, tl.where(none, 0.0, top) + tl.log2(tl.where(total == 0.0, 1.0, total)))
    found = found / LOG2E
    tl.store(out_ptr + row.to(tl.int64) * queries + m, found, mask=m < queries)


@triton.jit(do_not_specialize=["queries", "keys", "heads", "k_group", "v_group", "scale"])
def columns_kernel(
    out_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    g_ptr,
    w_ptr,
    lse_ptr,
    mask_ptr,
    queries,
    keys,
    heads,
    k_group,
    v_group,
    scale,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    g_b,
    g_h,
    g_n,
    w_b,
    w_h,
    w_n,
    mask_b,
    mask_h,
    mask_m,
    mask_n,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    ATTENTION: tl.constexpr,
    GRADIENT: tl.constexpr,
    MASK: tl.constexpr,  # 0: none, 1: bytes, 2: numbers that are added
    CAUSAL: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """out[b, h, j] = sum_i w_i relu(A_ij g_i v_j), without the factor that is not asked for.

    Bytes: what is asked for of q and k, and of v and g, once, with w, lse, mask and out. One program for some keys,
    whose k and v stay on the chip.
    """
    blocks = tl.cdiv(keys, BLOCK_N)
    row = tl.program_id(0) // blocks
    b, h = (row // heads).to(tl.int64), (row % heads).to(tl.int64)
    first = tl.program_id(0) % blocks * BLOCK_N
    n = first + tl.arange(0, BLOCK_N)
    q_ptr += b * q_b + h * q_h
    g_ptr += b * g_b + h * g_h
    w_ptr += b * w_b + h * w_h
    lse_ptr += row.to(tl.int64) * queries
    mask_ptr += b * mask_b + h * mask_h
    if ATTENTION:
        k = load_rows(k_ptr + b * k_b + h // k_group * k_h, n, keys, k_n, D, BLOCK_D, WIDE)
    if GRADIENT:
        v = load_rows(v_ptr + b * v_b + h // v_group * v_h, n, keys, v_n, DV, BLOCK_DV, WIDE)
    total = tl.zeros([BLOCK_N], tl.float32)
    begin = first // BLOCK_M * BLOCK_M if CAUSAL else 0
    for start in range(begin, queries, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        inside = m < queries
        w = tl.load(w_ptr + m.to(tl.int64) * w_n, mask=inside, other=0.0)
        part, added = taking_part(mask_ptr, m, n, queries, keys, mask_m, mask_n, MASK, CAUSAL)
        if ATTENTION:
            q = load_rows(q_ptr, m, queries, q_n, D, BLOCK_D, WIDE)
            lse = tl.load(lse_ptr + m, mask=inside, other=0.0) * LOG2E
            s = logits(q, k, part, added, scale, MASK)
            tile = tl.exp2(s - tl.where(lse == float("-inf"), 0.0, lse)[:, None])
        if GRADIENT:
            g = load_rows(g_ptr, m, queries, g_n, DV, BLOCK_DV, WIDE)
            d = tl.dot(g, tl.trans(v), input_precision="ieee")
            if ATTENTION:
                tile = tile * d
            else:
                tile = tl.where(part, d, 0.0)
            tile = tl.maximum(tile, 0.0, propagate_nan=tl.PropagateNan.ALL)
        total += tl.sum(w[:, None] * tile, axis=0)
    tl.store(out_ptr + row.to(tl.int64) * keys + n, total, mask=n < keys)


def logsumexp(out: Tensor, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float) -> None:
    """Launch ``fastsal::attention_logsumexp``."""
    q, k = dense(query), dense(key)
    batch, heads, queries, width = q.shape
    given, strides, kind = mask_of(mask, q)
    blocks = blocks_of(q.dtype, width)
    launch(
        logsumexp_kernel,
        (batch * heads * cdiv(queries, blocks.queries),),
        out,
        q,
        k,
        given,
        queries,
        k.shape[2],
        heads,
        heads // k.shape[1],
        scale,
        *q.stride()[:3],
        *k.stride()[:3],
        *strides,
        D=width,
        BLOCK_D=width_of(width),
        MASK=kind,
        CAUSAL=causal,
        WIDE=INTERPRETED,
        BLOCK_M=blocks.queries,
        BLOCK_N=blocks.keys,
        num_warps=blocks.warps,
    )


def _columns(
    out: Tensor,
    weights: Tensor,
    read: tuple[Tensor, Tensor, Tensor, float] | None,
    by: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
    causal: bool,
) -> None:
    """Of (query, key, log-sum-exp, scale), or (gradient, value), or both."""
    q = k = lse = out
    v = g = out
    scale = 1.0
    if read is not None:
        q, k, lse, scale = dense(read[0]), dense(read[1]), read[2].contiguous(), read[3]
    if by is not None:
        g, v = dense(by[0]), dense(by[1])
    if read is None:
        q, k = g, v
    if by is None:
        g, v = q, k
    batch, heads, queries, _ = q.shape
    given, strides, kind = mask_of(mask, out)
    blocks = blocks_of(q.dtype, max(q.shape[3], v.shape[3]))
    launch(
        columns_kernel,
        (batch * heads * cdiv(k.shape[2], blocks.keys),),
        out,
        q,
        k,
        v,
        g,
        weights,
        lse,
        given,
        queries,
        k.shape[2],
        heads,
        heads // k.shape[1],
        heads // v.shape[1],
        scale,
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *g.stride()[:3],
        *weights.stride(),
        *strides,
        D=q.shape[3],
        BLOCK_D=width_of(q.shape[3]),
        DV=v.shape[3],
        BLOCK_DV=width_of(v.shape[3]),
        ATTENTION=read is not None,
        GRADIENT=by is not None,
        MASK=kind,
        CAUSAL=causal,
        WIDE=INTERPRETED,
        BLOCK_M=blocks.queries,
        BLOCK_N=blocks.keys,
        num_warps=blocks.warps,
    )


def received(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    weights: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> None:
    """Launch ``fastsal::attention_received``."""
    _columns(out, weights, (query, key, lse, scale), None, mask, causal)


def gradient_received(
    out: Tensor, gradient: Tensor, value: Tensor, weights: Tensor, mask: Tensor | None, causal: bool
) -> None:
    """Launch ``fastsal::attention_gradient_received``."""
    _columns(out, weights, None, (gradient, value), mask, causal)


def relevance(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gradient: Tensor,
    weights: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> None:
    """Launch ``fastsal::attention_relevance``."""
    _columns(out, weights, (query, key, lse, scale), (gradient, value), mask, causal)
