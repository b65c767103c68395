"""Regions of a cached map with patches pasted in: the inputs of incremental inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsal_kernels._launch import block_size, cdiv, launch, vector_width
from fastsal_kernels._numerics import fill_like


@triton.jit(
    do_not_specialize=["height", "width", "tall", "wide", "total", "rows", "columns", "channels_in_vectors", "fill"]
)
def gather_kernel(
    out_ptr,
    cached_ptr,
    patch_ptr,
    starts_ptr,
    origins_ptr,
    height,
    width,
    tall,
    wide,
    total,
    rows,
    columns,
    channels_in_vectors,
    fill,
    VECTOR: tl.constexpr,
    PATCH: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out[b, y, x, :] = patch, map or fill, whichever lies at starts[b] + (y, x). Bytes: the result, and as much read.

    A row of channels comes from one place, so that loads are as wide as stores.
    """
    channels = channels_in_vectors * VECTOR
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = r < total
    b = r // (rows * columns)
    y = tl.load(starts_ptr + 2 * b, mask=row, other=0) + r // columns % rows
    x = tl.load(starts_ptr + 2 * b + 1, mask=row, other=0) + r % columns
    on_map = row & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    valid = row[:, None] & (c < channels)[None, :]
    if PATCH:
        down = y - tl.load(origins_ptr + 2 * b, mask=row, other=0)
        right = x - tl.load(origins_ptr + 2 * b + 1, mask=row, other=0)
        pasted = on_map & (down >= 0) & (down < tall) & (right >= 0) & (right < wide)
        own = (b * tall + down) * wide + right
        value = tl.load(patch_ptr + own[:, None] * channels + c[None, :], mask=valid & pasted[:, None], other=0.0)
        kept = tl.load(
            cached_ptr + (y * width + x)[:, None] * channels + c[None, :],
            mask=valid & (on_map & (pasted == 0))[:, None],
            other=0.0,
        )
        value = tl.where(pasted[:, None], value, kept)
    else:
        value = tl.load(
            cached_ptr + (y * width + x)[:, None] * channels + c[None, :], mask=valid & on_map[:, None], other=0.0
        )
    value = tl.where(on_map[:, None], value, fill_like(value, fill))
    tl.store(out_ptr + r[:, None] * channels + c[None, :], value, mask=valid)


def gather(
    out: Tensor,
    cached: Tensor,
    starts: Tensor,
    size: Sequence[int],
    patch: Tensor | None,
    origins: Tensor | None,
    fill: float,
) -> None:
    """Launch ``fastsal::patches_gather``."""
    _, channels, height, width = cached.shape
    rows, columns = size
    total = starts.shape[0] * rows * columns
    vector = vector_width(channels)
    block_c = block_size(channels, 256)
    block_r = max(1, 2048 // block_c)
    altered = None if patch is None else patch.contiguous(memory_format=torch.channels_last)
    launch(
        gather_kernel,
        (cdiv(total, block_r), cdiv(channels, block_c)),
        out,
        cached.contiguous(memory_format=torch.channels_last),
        cached if altered is None else altered,
        starts.contiguous(),
        starts if origins is None else origins.contiguous(),
        height,
        width,
        1 if altered is None else altered.shape[2],
        1 if altered is None else altered.shape[3],
        total,
        rows,
        columns,
        channels // vector,
        fill,
        VECTOR=vector,
        PATCH=altered is not None,
        BLOCK_R=block_r,
        BLOCK_C=block_c,
        num_warps=4,
    )
