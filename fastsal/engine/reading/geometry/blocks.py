"""One input with blocks of it changed, a row for each, so that it shows where a layer follows them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCKS = 16
"""Rows beside the unchanged one."""
SHORTEST_AXIS = 8
"""A dimension 1 that is shorter is taken for channels."""
_SHARES = (8, 3)
"""Of a side that blocks take, in turn: small ones tell fine grids, and large ones coarse grids."""


class Blocks(NamedTuple):
    """What was changed.

    Attributes:
        rows: [1 + K, ...], the first as it is.
        axes: the input's dimensions that the blocks lie along.
        centres: [K, axes] from 0 to 1.
        sides: [K, axes], the blocks' part of each.
        extents: the input's size along the axes.
        bumps: what is expected of a change along one axis, by axis, count and width, once it was asked.
    """

    rows: Tensor
    axes: tuple[int, ...]
    centres: Tensor
    sides: Tensor
    extents: tuple[int, ...]
    bumps: dict[tuple[int, int, float], Tensor]


def axes_of(value: Tensor) -> tuple[int, ...]:
    """The dimensions of an input along which positions may lie."""
    behind = range(2, value.dim())
    first = (1,) if value.dim() > 1 and value.shape[1] >= SHORTEST_AXIS else ()
    if value.dim() == 5 and value.shape[1] >= value.shape[2]:  # frames before channels
        behind, first = range(3, 5), (1,)
    return tuple(dim for dim in (*first, *behind) if value.shape[dim] >= 2)


def blocks_of(value: Tensor) -> Blocks | None:
    """Blocks of an input [1, ...], evenly spread over its axes; None where it has none.

    Floating point becomes noise of the input's own mean and deviation (of 1 where that is 0), integers the values from
    elsewhere in it.
    """
    axes = axes_of(value)
    if not axes:
        return None
    generator = torch.Generator().manual_seed(0)
    extents = tuple(value.shape[axis] for axis in axes)
    root = 2.0  # of the evenly spread points of so many dimensions
    for _ in range(32):
        root = (1 + root) ** (1 / (len(axes) + 1))
    rows, centres, sides = [value], [], []
    other = others_of(value, generator)
    for number in range(BLOCKS):
        share = _SHARES[number % len(_SHARES)]
        side = [max(1, round(extent / share)) for extent in extents]
        at = [(0.5 + (number + 1) * root ** -(place + 1)) % 1 for place in range(len(axes))]
        if len(axes) == 1:
            at = [(number + 0.5) / BLOCKS]
        start = [min(int(f * (extent - s + 1)), extent - s) for f, extent, s in zip(at, extents, side, strict=True)]
        row = value.clone()
        place = [slice(None)] * value.dim()
        for axis, first, s in zip(axes, start, side, strict=True):
            place[axis] = slice(first, first + s)
        row[tuple(place)] = other[tuple(place)]
        rows.append(row)
        centres.append([(first + s / 2) / extent for first, s, extent in zip(start, side, extents, strict=True)])
        sides.append([s / extent for s, extent in zip(side, extents, strict=True)])
    where, how_long = (torch.tensor(each, dtype=torch.float64) for each in (centres, sides))
    return Blocks(torch.cat(rows), axes, where, how_long, extents, {})


def others_of(value: Tensor, generator: torch.Generator) -> Tensor:
    """Other values for all of an input: noise of its own mean and deviation, or integers from elsewhere in it."""
    if not value.is_floating_point():
        shuffled = value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)]
        kinds, number = value.flatten().unique(return_inverse=True)
        # What the draw leaves as it is becomes the next of the values that there are.
        return torch.where(shuffled == value.flatten(), kinds[(number + 1) % len(kinds)], shuffled).reshape(value.shape)
    noise = torch.randn(value.shape, generator=generator).to(value.device)
    spread = float(value.float().std()) if value.numel() > 1 else 0.0
    found: Tensor = (value.float().mean() + (spread or 1.0) * noise).to(value.dtype)
    return found
