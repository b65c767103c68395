"""Which masks RISE draws: one by one, in pairs, balanced, or spread evenly. Every mask alone is distributed alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from fastsal.ops import masks

DESIGNS = ("independent", "antithetic", "balanced", "sobol")
BALANCED = 64
"""Masks of a block in which each cell is kept equally often."""


def checked_design(design: str) -> str:
    """A design's name.

    Raises:
        ValueError: for another.
    """
    if design not in DESIGNS:
        raise ValueError(f"design: {design!r} is not one of {', '.join(DESIGNS)}")
    return design


def designed(
    design: str, sizes: Sequence[int], size: Sequence[int], grid: Sequence[int], probability: float, seed: int
) -> masks.Design | None:
    """The masks of a design, on the CPU; None for independent ones, which a seed gives.

    Args:
        design: ``antithetic``: pairs with the same offsets in which a cell that one draw keeps the other is as far as
            can be from keeping; ``balanced``: in every 64 masks each cell is kept equally often; ``sobol``: a
            scrambled Sobol sequence over cells and offsets (Owen 1998).
        sizes: masks of each replicate; replicates are independent of each other.
        size: the input's spatial sizes.
        grid: cells per dimension.
        probability: that a cell is kept.
        seed: of all of it.
    """
    if design == "independent":
        return None
    draw = {"antithetic": _antithetic, "balanced": _balanced, "sobol": _sobol}[design]
    cells = [-(-extent // number) for extent, number in zip(size, grid, strict=True)]
    source = np.random.Generator(np.random.Philox(key=[seed % 2**64, 0x5A11]))
    parts = [draw(source, count, prod(grid), cells, probability) for count in sizes]
    kept, places = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    shape = (len(kept), *grid)
    return masks.design_of(_tensor(kept).view(shape), _tensor(places.astype(np.int64)))


def _tensor(values: np.ndarray) -> Tensor:
    with torch.device("cpu"):
        return torch.from_numpy(values)


Drawn = tuple[np.ndarray, np.ndarray]


def _offsets(uniform: np.ndarray, cells: Sequence[int]) -> np.ndarray:
    sizes = np.array(cells)
    places: np.ndarray = np.minimum((uniform * sizes).astype(np.int64), sizes - 1)
    return places


def _antithetic(source: np.random.Generator, count: int, cells: int, cell: Sequence[int], probability: float) -> Drawn:
    pairs = -(-count // 2)
    uniform, places = source.random((pairs, cells)), _offsets(source.random((pairs, len(cell))), cell)
    kept = np.stack([uniform < probability, uniform >= 1 - probability], 1).reshape(2 * pairs, cells)
    return kept[:count], places.repeat(2, 0)[:count]


def _balanced(source: np.random.Generator, count: int, cells: int, cell: Sequence[int], probability: float) -> Drawn:
    blocks = -(-count // BALANCED)
    order = source.random((blocks, BALANCED, cells)).argsort(1).argsort(1)
    # The fraction of a mask that the probability leaves over is drawn, so that each mask keeps it on the average.
    ones = np.floor(BALANCED * probability + source.random((blocks, 1, cells)))
    kept = (order < ones).reshape(blocks * BALANCED, cells)
    return kept[:count], _offsets(source.random((count, len(cell))), cell)


def _sobol(source: np.random.Generator, count: int, cells: int, cell: Sequence[int], probability: float) -> Drawn:
    seed = int(source.integers(2**62))
    engine = torch.quasirandom.SobolEngine(cells + len(cell), scramble=True, seed=seed)
    with torch.device("cpu"):
        points = engine.draw(count, dtype=torch.float64).numpy()
    return points[:, len(cell) :] < probability, _offsets(points[:, : len(cell)], cell)
