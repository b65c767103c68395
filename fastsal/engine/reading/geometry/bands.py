"""One input with bands across each of its axes changed, which tell of each token of a layer where it looks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.engine.reading.geometry.blocks import others_of

MOST_BANDS = 16
"""Rows beside the unchanged one, of all axes together."""


class Bands(NamedTuple):
    """What was changed.

    Attributes:
        rows: [1 + K, ...], the first as it is.
        of: for each axis, by its place among the blocks' axes, its rows without the first.
        centres: [K] from 0 to 1, along the row's axis.
    """

    rows: Tensor
    of: dict[int, slice]
    centres: Tensor


def bands_of(value: Tensor, dims: tuple[int, ...]) -> Bands:
    """Bands of equal parts of an input [1, ...] across each of its axes, each part in one of them.

    Args:
        value: the input.
        dims: the input's dimension of each axis.
    """
    other = others_of(value, torch.Generator().manual_seed(1))
    rows, centres, of = [value], [], {}
    left = MOST_BANDS
    for done, place in enumerate(sorted(range(len(dims)), key=lambda each: value.shape[dims[each]])):
        extent = value.shape[dims[place]]
        count = min(extent, left // (len(dims) - done))
        left -= count
        of[place] = slice(len(rows) - 1, len(rows) - 1 + count)
        for number in range(count):
            first, last = (number * extent) // count, ((number + 1) * extent) // count
            row = value.clone()
            row.narrow(dims[place], first, last - first).copy_(other.narrow(dims[place], first, last - first))
            rows.append(row)
            centres.append((first + last) / 2 / extent)
    return Bands(torch.cat(rows), of, torch.tensor(centres, dtype=torch.float64))
