"""Tiles of attention that several kernels take: rows of queries and keys, which pairs take part, their logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import block_size

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_rows(start, at, count, step, D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr):
    """Rows of a [count, D] matrix; zeros outside. WIDE: the interpreter multiplies the bits of bfloat16."""
    d = tl.arange(0, BLOCK_D)
    inside = (at < count)[:, None] & (d < D)[None, :]
    tile = tl.load(start + at.to(tl.int64)[:, None] * step + d[None, :], mask=inside, other=0.0)
    return tile.to(tl.float32) if WIDE else tile


@triton.jit
def taking_part(mask_ptr, m, n, queries, keys, mask_m, mask_n, MASK: tl.constexpr, CAUSAL: tl.constexpr):
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
def logits(q, k, part, added, scale, MASK: tl.constexpr):
    """To the base of 2; -inf where a pair takes no part."""
    found = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
    if MASK == 2:
        found += added * LOG2E
    return tl.where(part, found, float("-inf"))


class Blocks(NamedTuple):
    queries: int
    keys: int
    warps: int


def blocks_of(dtype: torch.dtype, width: int) -> Blocks:
    """The largest that do not spill, in less than 100 KiB; of float32, whose products are exact, smaller ones."""
    if dtype == torch.float32:
        return Blocks(32, 32, 4) if width <= 64 else Blocks(16, 32 if width <= 128 else 16, 4)
    if width <= 128:
        return Blocks(64, 64, 8)
    return Blocks(32, 32, 8) if width <= 256 else Blocks(16, 32, 4)


def dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def mask_of(mask: Tensor | None, spare: Tensor) -> tuple[Tensor, tuple[int, ...], int]:
    """(what the kernel reads, its strides, of which kind it is)."""
    if mask is None:
        return spare, (0, 0, 0, 0), 0
    strides = tuple(0 if size == 1 else step for size, step in zip(mask.shape, mask.stride(), strict=True))
    return (mask.view(torch.uint8), strides, 1) if mask.dtype == torch.bool else (mask, strides, 2)


def width_of(size: int) -> int:
    return max(16, block_size(size, 256))
