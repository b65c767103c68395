"""RISE's random masks: the masked batch, and the score-weighted sum of the same masks.

Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (BMVC 2018), section 3.2.
A grid of s cells per dimension is drawn, each 1 with probability p; it is resized bilinearly so that it spans s + 1
cells of ceil(size / s) pixels, and a crop of the input's size is taken at a random offset within one cell.

Unless the masks are given, mask n is a function of (seed, n) alone: grid cell e is lane e % 4 of Philox4x32 at the
counter (n low, n high, e // 4, 0); the offsets are lanes 0 to 2 (depth, height, width) at the counter
(n low, n high, 0, 1).

NaN: a masked element is m * x + (1 - m) * b, so a NaN in the input stays also where the mask is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastsal.reference._numerics import WORD, accumulation_dtype, memory_format, philox, wide_dtype


def as_volume(sizes: Sequence[int], fill: int = 1) -> list[int]:
    """Sizes of one to three spatial dimensions, with leading ones added up to three."""
    return [fill] * (3 - len(sizes)) + list(sizes)


def cell_sizes(size: Sequence[int], grid: Sequence[int]) -> list[int]:
    """Pixels of one grid cell per dimension: ceil(size / s)."""
    return [-(-extent // cells) for extent, cells in zip(size, grid, strict=True)]


@torch.library.custom_op("fastsal::masks_draw", mutates_args=())
def draw(
    seed: int,
    start: int,
    count: int,
    grid: Sequence[int],
    cell: Sequence[int],
    probability: float,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Grids [count, *grid] (bool) and crop offsets [count, 3] (int64) of masks start .. start + count.

    An op of its own, without derivative: a compiler that saw the rounds of Philox would fuse them into expressions
    that grow exponentially.
    """
    index = torch.arange(count, dtype=torch.int64, device=device) + start
    low, high = index & WORD, (index >> 32) & WORD
    element = torch.arange(grid[0] * grid[1] * grid[2], dtype=torch.int64, device=device)
    zero = torch.zeros((count, element.numel()), dtype=torch.int64, device=device)
    lanes = torch.stack(philox(seed, (zero + low[:, None], zero + high[:, None], zero + element // 4, zero)))
    words = lanes.gather(0, (zero + element % 4)[None])[0]
    grids = (words < round(probability * 2**32)).view(count, *grid)
    origin = torch.zeros_like(low)
    offsets = philox(seed, (low, high, origin, origin + 1))
    return grids, torch.stack([(offsets[axis] * cell[axis]) >> 32 for axis in range(3)], dim=1)


@draw.register_fake
def _(
    seed: int,
    start: int,
    count: int,
    grid: Sequence[int],
    cell: Sequence[int],
    probability: float,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    grids = torch.empty((count, *grid), dtype=torch.bool, device=device)
    return grids, torch.empty((count, 3), dtype=torch.int64, device=device)


def unpack(words: Tensor, offsets: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Grids [count, *grid] (bool) and offsets [count, 3] (int64) of a given design.

    Args:
        words: [count, rows of a grid], int32, cell k of a row in bit k.
        offsets: [count, 3], int32.
    """
    column = torch.arange(grid[2], dtype=torch.int32, device=words.device)
    bits = (words[:, :, None] >> column) & 1
    return bits.bool().view(words.shape[0], *grid), offsets.to(torch.int64)


def interpolation_weights(offset: Tensor, size: int, grid: int, cell: int, mirror: bool) -> Tensor:
    """Matrices [len(offset), size, grid] (float64) that resize one grid dimension and crop it at each offset."""
    dtype = wide_dtype(offset.device)
    pixel = torch.arange(size, dtype=dtype, device=offset.device)
    position = (offset[:, None] + pixel + 0.5) * (grid / ((grid + 1) * cell)) - 0.5
    if mirror:
        position = (grid - 1) - ((grid - 1) - position.abs()).abs()
    position = position.clamp(0, grid - 1)
    node = torch.arange(grid, dtype=dtype, device=offset.device)
    return (1 - (position[..., None] - node).abs()).clamp_min(0)


def masks(
    seed: int,
    start: int,
    count: int,
    size: Sequence[int],
    grid: Sequence[int],
    probability: float,
    mirror: bool,
    dtype: torch.dtype,
    device: torch.device,
    words: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    """Masks [count, *size] of one to three spatial dimensions, values in [0, 1]."""
    extent, cells = as_volume(size), as_volume(grid)
    cell = cell_sizes(extent, cells)
    if words is None or offsets is None:
        grids, places = draw(seed, start, count, cells, cell, probability, device)
    else:
        grids, places = unpack(words, offsets, cells)
    result: Tensor = grids.to(dtype)
    for axis in (2, 1, 0):
        if extent[axis] == cells[axis] == 1:
            continue
        weights = interpolation_weights(places[:, axis], extent[axis], cells[axis], cell[axis], mirror).to(dtype)
        result = torch.einsum("nij,n...j->n...i", weights, result.movedim(axis + 1, -1)).movedim(-1, axis + 1)
    return result.reshape(count, *size)


def batch(
    input: Tensor,
    baseline: Tensor | None,
    fill: float,
    seed: int,
    start: int,
    stop: int,
    grid: Sequence[int],
    probability: float,
    mirror: bool,
    words: Tensor | None,
    offsets: Tensor | None,
) -> Tensor:
    """Masked copies [(stop - start) * B, C, *spatial] of input [B, C, *spatial]; row (n - start) * B + b."""
    dtype = accumulation_dtype(input.dtype)
    count, size = stop - start, input.shape[2:]
    mask = masks(seed, start, count, size, grid, probability, mirror, dtype, input.device, words, offsets)
    mask = mask.view(count, 1, 1, *size)
    result = mask * input.to(dtype)
    if baseline is not None:
        result = result + (1 - mask) * baseline.to(dtype)
    elif fill != 0.0:
        result = result + (1 - mask) * fill
    result = result.to(input.dtype).reshape(count * input.shape[0], *input.shape[1:])
    return result.contiguous(memory_format=memory_format(input))


def accumulate(
    scores: Tensor,
    partial: Tensor | None,
    seed: int,
    start: int,
    size: Sequence[int],
    grid: Sequence[int],
    probability: float,
    words: Tensor | None,
    offsets: Tensor | None,
) -> Tensor:
    """Sum of scores [N, K] times grid per crop offset: [offsets, K, cells], the state from which finish makes maps.

    A mask depends linearly on its grid once its offset is known and there are only prod(cell) offsets, so the sum
    over masks is taken on grids. Masks are added in the order of their index: chunks give the bits of one call.
    """
    extent, cells = as_volume(size), as_volume(grid)
    cell = cell_sizes(extent, cells)
    dtype = accumulation_dtype(scores.dtype)
    count, outputs = scores.shape
    if words is None or offsets is None:
        grids, places = draw(seed, start, count, cells, cell, probability, scores.device)
    else:
        grids, places = unpack(words, offsets, cells)
    bucket = (places[:, 0] * cell[1] + places[:, 1]) * cell[2] + places[:, 2]
    terms = scores.to(dtype)[:, :, None] * grids.flatten(1)[:, None].to(dtype)
    if partial is None:
        partial = terms.new_zeros((cell[0] * cell[1] * cell[2], outputs, terms.shape[2]))
    return partial.index_add(0, bucket, terms)


def finish(partial: Tensor, size: Sequence[int], grid: Sequence[int], mirror: bool) -> Tensor:
    """Maps [K, *size] from the state of :func:`accumulate`: one dense product per dimension, in float64."""
    extent, cells = as_volume(size), as_volume(grid)
    cell = cell_sizes(extent, cells)
    outputs = partial.shape[1]
    matrices = []
    for axis in range(3):
        offsets = torch.arange(cell[axis], dtype=torch.int64, device=partial.device)
        weights = interpolation_weights(offsets, extent[axis], cells[axis], cell[axis], mirror)
        matrices.append(weights.transpose(0, 1).reshape(extent[axis], cell[axis] * cells[axis]))
    state = partial.view(*cell, outputs, *cells).permute(3, 0, 4, 1, 5, 2, 6)
    state = state.reshape(outputs, cell[0] * cells[0], cell[1] * cells[1], cell[2] * cells[2])
    chunks = []
    for chunk in state.split(64):
        maps = chunk.to(matrices[2].dtype) @ matrices[2].T
        maps = matrices[1] @ maps
        if extent[0] != 1 or cells[0] != 1:
            maps = torch.einsum("dj,kjhw->kdhw", matrices[0], maps)
        chunks.append(maps.to(partial.dtype))
    return torch.cat(chunks).reshape(outputs, *size)
