"""Where in the input the keys of attention weights are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.engine.reading.geometry import Cells, Layout, cells_along, examples_alone
from fastsal.explainers.attending import in_windows


class Keys(NamedTuple):
    """How what the keys of attention [B, heads, queries, keys] received becomes a grid.

    Attributes:
        before: tokens without a place before the others.
        inner: keys with a place, along axes of the input.
        order: which of these, counted through, make up the grid: axis by axis, the coarser first.
        size: of the grid.
        rolls: by how many places each of its axes was turned around.
        axes: of the first input, that it follows.
    """

    before: int
    inner: tuple[int, ...]
    order: tuple[int, ...]
    size: tuple[int, ...]
    rolls: tuple[int, ...]
    axes: tuple[int, ...] = ()

    def arrange(self, received: Tensor) -> Tensor:
        """[B, *size] of [B, keys]."""
        parts = received[:, self.before : self.before + math.prod(self.inner)].unflatten(1, self.inner)
        grid = parts.permute(0, *[1 + place for place in self.order]).reshape(len(received), *self.size)
        return torch.roll(grid, [-roll for roll in self.rolls], list(range(1, grid.dim()))) if any(self.rolls) else grid


def keys_of(layout: Layout | None, dimensions: int, crossed: bool = False) -> Keys | None:
    """Of attention weights, by their layout; None where their keys are not positions of the whole first input.

    Attention within windows has more rows than there are examples: it says nothing of one window beside another. Nor is
    it attention of the patches where the queries are something else that is as many: pixels within a patch, say.

    Args:
        layout: of the weights [rows, heads, queries, keys].
        dimensions: of the first input [B, C, *spatial], of which the keys must follow every spatial one; of [B, N] and
            of three dimensions, the one that they do follow.
        crossed: the queries are something else: tokens of a decoder, learnt ones.
    """
    found = None if layout is None else cells_along(layout[-1], 0)
    if layout is None or found is None or not examples_alone(layout[0]) or in_windows(layout):
        return None
    before, cells, _ = found
    queries = cells_along(layout[-2], 0)
    if crossed:
        if queries is not None:
            return None
    elif queries is None or [_place(each) for each in queries[1]] != [_place(each) for each in cells]:
        return None
    axes = [_axis(each) for each in cells]
    spatial = tuple(range(2, dimensions)) if dimensions > 3 else tuple(dict.fromkeys(axes))
    if set(axes) != set(spatial) or len(spatial) != max(1, dimensions - 2):
        return None
    order, size, rolls = [], [], []
    for axis in spatial:
        along = [place for place, each in enumerate(axes) if each == axis]
        along.sort(key=lambda place: -_stride(cells[place]))
        order += along
        size.append(math.prod(cells[place].extent for place in along))
        turned = {cells[place].roll for place in along}
        if len(turned) > 1:
            return None
        rolls.append(turned.pop())
    return Keys(before, tuple(each.extent for each in cells), tuple(order), tuple(size), tuple(rolls), spatial)


def _axis(cells: Cells) -> int:
    return next(look.axis for look in cells.looks if look.input == 0)


def _place(cells: Cells) -> tuple[int, int, float]:
    return cells.extent, _axis(cells), _stride(cells)


def _stride(cells: Cells) -> float:
    return next(look.stride for look in cells.looks if look.input == 0)
