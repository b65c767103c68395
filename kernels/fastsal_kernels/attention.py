"""What explainers read of attention: log-sum-exp of logits and sums over queries, in tiles that stay on the chip."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import INTERPRETED, block_size, cdiv, launch

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _rows(start, at, count, step, D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr):
    """Rows of a [count, D] matrix; zeros outside. WIDE: the interpreter multiplies the bits of bfloat16."""
    d = tl.arange(0, BLOCK_D)
    inside = (at < count)[:, None] & (d < D)[None, :]
    tile = tl.load(start + at.to(tl.int64)[:, None] * step + d[None, :], mask=inside, other=0.0)
    return tile.to(tl.float32) if WIDE else tile


@triton.jit
def _part(mask_ptr, m, n, queries, keys, mask_m, mask_n, MASK: tl.constexpr, CAUSAL: tl.constexpr):
    """(which pairs take part, what the mask adds to their logits)."""
    part = (m < queries)[:, None] & (n < keys)[None, :]
    added = tl.zeros([m.shape[0], n.shape[0]], tl.float32)
    if MASK != 0:
        where = mask_ptr + m.to(tl.int64)[:, None] * mask_m + n.to(tl.int64)[None, :] * mask_n
        given = tl.load(where, mask=part, other=0.0 if MASK == 2 else 0)
        if MASK == 2:
            added = given.to(tl.float32)
            part = part & (added != float("-inf"))
        else:
            part = part & (given != 0)
    if CAUSAL:
        part = part & (n[None, :] <= m[:, None])
    return part, added


@triton.jit
def _logits(q, k, part, added, scale, MASK: tl.constexpr, PRECISION: tl.constexpr):
    """To the base of 2; -inf where a pair takes no part."""
    found = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
    if MASK == 2:
        found += added * LOG2E
    return tl.where(part, found, float("-inf"))


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
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """out[b, h, i] = log sum_j exp(scale q_i k_j + mask_ij). Bytes: q, k, mask, out. One program for some queries."""
    blocks = tl.cdiv(queries, BLOCK_M)
    row = tl.program_id(0) // blocks
    b, h = (row // heads).to(tl.int64), (row % heads).to(tl.int64)
    first = tl.program_id(0) % blocks * BLOCK_M
    m = first + tl.arange(0, BLOCK_M)
    q = _rows(q_ptr + b * q_b + h * q_h, m, queries, q_n, D, BLOCK_D, WIDE)
    k_ptr += b * k_b + h // group * k_h
    mask_ptr += b * mask_b + h * mask_h
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    end = tl.minimum(keys, first + BLOCK_M) if CAUSAL else keys
    for start in range(0, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        part, added = _part(mask_ptr, m, n, queries, keys, mask_m, mask_n, MASK, CAUSAL)
        s = _logits(q, _rows(k_ptr, n, keys, k_n, D, BLOCK_D, WIDE), part, added, scale, MASK, PRECISION)
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
    PRECISION: tl.constexpr,
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
        k = _rows(k_ptr + b * k_b + h // k_group * k_h, n, keys, k_n, D, BLOCK_D, WIDE)
    if GRADIENT:
        v = _rows(v_ptr + b * v_b + h // v_group * v_h, n, keys, v_n, DV, BLOCK_DV, WIDE)
    total = tl.zeros([BLOCK_N], tl.float32)
    begin = first // BLOCK_M * BLOCK_M if CAUSAL else 0
    for start in range(begin, queries, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        inside = m < queries
        w = tl.load(w_ptr + m.to(tl.int64) * w_n, mask=inside, other=0.0)
        part, added = _part(mask_ptr, m, n, queries, keys, mask_m, mask_n, MASK, CAUSAL)
        if ATTENTION:
            q = _rows(q_ptr, m, queries, q_n, D, BLOCK_D, WIDE)
            lse = tl.load(lse_ptr + m, mask=inside, other=0.0) * LOG2E
            s = _logits(q, k, part, added, scale, MASK, PRECISION)
            tile = tl.exp2(s - tl.where(lse == float("-inf"), 0.0, lse)[:, None])
        if GRADIENT:
            g = _rows(g_ptr, m, queries, g_n, DV, BLOCK_DV, WIDE)
            d = tl.dot(g, tl.trans(v), input_precision=PRECISION)
            if ATTENTION:
                tile = tile * d
            else:
                tile = tl.where(part, d, 0.0)
            tile = tl.maximum(tile, 0.0, propagate_nan=tl.PropagateNan.ALL)
        total += tl.sum(w[:, None] * tile, axis=0)
    tl.store(out_ptr + row.to(tl.int64) * keys + n, total, mask=n < keys)


class _Blocks(NamedTuple):
    queries: int
    keys: int
    warps: int


def _blocks(dtype: torch.dtype, width: int) -> _Blocks:
    """The largest that do not spill, in less than 100 KiB; of float32, whose products are exact, smaller ones."""
    if dtype == torch.float32:
        return _Blocks(32, 32, 4) if width <= 64 else _Blocks(16, 32 if width <= 128 else 16, 4)
    return _Blocks(64, 64, 8) if width <= 128 else _Blocks(32, 32, 8)


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _mask(mask: Tensor | None, spare: Tensor) -> tuple[Tensor, tuple[int, ...], int]:
    """(what the kernel reads, its strides, of which kind it is)."""
    if mask is None:
        return spare, (0, 0, 0, 0), 0
    strides = tuple(0 if size == 1 else step for size, step in zip(mask.shape, mask.stride(), strict=True))
    return (mask.view(torch.uint8), strides, 1) if mask.dtype == torch.bool else (mask, strides, 2)


def _width(size: int) -> int:
    return max(16, block_size(size, 256))


def logsumexp(out: Tensor, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float) -> None:
    """Launch ``fastsal::attention_logsumexp``."""
    q, k = _dense(query), _dense(key)
    batch, heads, queries, width = q.shape
    given, strides, kind = _mask(mask, q)
    blocks = _blocks(q.dtype, width)
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
        BLOCK_D=_width(width),
        MASK=kind,
        CAUSAL=causal,
        WIDE=INTERPRETED,
        PRECISION="ieee",
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
        q, k, lse, scale = _dense(read[0]), _dense(read[1]), read[2].contiguous(), read[3]
    if by is not None:
        g, v = _dense(by[0]), _dense(by[1])
    if read is None:
        q, k = g, v
    if by is None:
        g, v = q, k
    batch, heads, queries, _ = q.shape
    given, strides, kind = _mask(mask, out)
    blocks = _blocks(q.dtype, max(q.shape[3], v.shape[3]))
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
        BLOCK_D=_width(q.shape[3]),
        DV=v.shape[3],
        BLOCK_DV=_width(v.shape[3]),
        ATTENTION=read is not None,
        GRADIENT=by is not None,
        MASK=kind,
        CAUSAL=causal,
        WIDE=INTERPRETED,
        PRECISION="ieee",
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
