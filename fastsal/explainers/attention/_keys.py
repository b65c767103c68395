"""Where in the input the keys of attention weights are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.engine.reading.geometry import Cells, Layout, cells_along, examples_along


class Keys(NamedTuple):
    """How what the keys of attention [rows, heads, queries, keys] received becomes a grid.

    Attributes:
        windows: of one example, each with rows of its own, along axes of the input; () where there are none.
        before: tokens without a place before the others.
        inner: keys with a place, along axes of the input.
        order: which of these two, counted through, make up the grid: axis by axis, the coarser first.
        size: of the grid.
        rolls: by how many places each of its axes was turned around.
    """

    windows: tuple[int, ...]
    before: int
    inner: tuple[int, ...]
    order: tuple[int, ...]
    size: tuple[int, ...]
    rolls: tuple[int, ...]

    def arrange(self, received: Tensor, examples: int) -> Tensor:
        """[B, *size] of [rows, keys]."""
        placed = received[:, self.before : self.before + math.prod(self.inner)]
        parts = placed.reshape(examples, *self.windows, *self.inner)
        grid = parts.permute(0, *[1 + place for place in self.order]).reshape(examples, *self.size)
        return torch.roll(grid, [-roll for roll in self.rolls], list(range(1, grid.dim()))) if any(self.rolls) else grid


def keys_of(layout: Layout | None, dimensions: int) -> Keys | None:
    """Of attention weights, by their layout; None where their keys are not positions of the first input.

    Args:
        layout: of the weights [rows, heads, queries, keys].
        dimensions: of the first input [B, C, *spatial], of which the keys must follow every spatial one.
    """
    if layout is None:
        return None
    windows, found = examples_along(layout[0], 0), cells_along(layout[-1], 0)
    if windows is None or found is None:
        return None
    before, inner, behind = found
    if windows and (before or behind):
        return None
    cells = [*windows, *inner]
    axes = [_axis(each) for each in cells]
    spatial = range(2, dimensions)
    if set(axes) != set(spatial):
        return None
    order, size, rolls = [], [], []
    for axis in spatial:
        along = [place for place, each in enumerate(axes) if each == axis]
        along.sort(key=lambda place: -_stride(cells[place]))
        order += along
        size.append(math.prod(cells[place].extent for place in along))
        turned = {cells[place].roll for place in along if cells[place].extent > 1}
        if len(turned) > 1:
            return None
        rolls.append(next(iter(turned), 0))
    if math.prod(size) < 2:
        return None
    extents = tuple(each.extent for each in windows), tuple(each.extent for each in inner)
    return Keys(extents[0], before, extents[1], tuple(order), tuple(size), tuple(rolls))


def _axis(cells: Cells) -> int:
    return next(look.axis for look in cells.looks if look.input == 0)


def _stride(cells: Cells) -> float:
    return next(look.stride for look in cells.looks if look.input == 0)
