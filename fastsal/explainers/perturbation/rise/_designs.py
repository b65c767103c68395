"""Which masks RISE draws: one by one, in pairs, balanced, or spread evenly. Every mask alone is distributed alike."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from fastsal._torch import disable_current_modes
from fastsal.engine.run import Bounded
from fastsal.ops import masks

DESIGNS = ("independent", "antithetic", "balanced", "sobol")
BALANCED = 64
"""Masks of a block in which each cell is kept equally often."""
MOST_BYTES = 2**26
"""Of what is kept of masks, and of fits on them, for another call."""


def checked_design(design: str) -> str:
    """A design's name.

    Raises:
        ValueError: for another.
    """
    if design not in DESIGNS:
        raise ValueError(f"design: {design!r} is not one of {', '.join(DESIGNS)}")
    return design


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks of a run: which of those that there could be.

    Attributes:
        each: what a mask is, and the seed of them all.
        design: one of :data:`DESIGNS`.
        total: masks.
        replicates: of designs other than the independent one, so many that do not depend on each other take turns.
    """

    each: masks.Masks
    design: str
    total: int
    replicates: int = 1
    _held: dict[torch.device, masks.Design] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def groups(self, count: int, most: int) -> list[slice]:
        """At most so many groups of the first masks, which do not depend on each other: the replicates, if any."""
        if self.design != "independent":
            return [slice(index, count, self.replicates) for index in range(min(self.replicates, count))]
        number = min(most, count)
        edges = [count * index // number for index in range(number + 1)]
        return [slice(low, high) for low, high in itertools.pairwise(edges)]

    def _part(self, which: slice, device: torch.device) -> masks.Design | None:
        if self.design == "independent":
            return None
        found = self._held.get(device)
        if found is None:  # this run's own: what is kept for others may be gone meanwhile
            found = designed(self.design, self.total, self.replicates, self.each, device)
            self._held[device] = found
        return found.part(which)

    def drawn(self, count: int) -> masks.Design:
        """The first masks, on the CPU."""
        part = self._part(slice(count), torch.device("cpu"))
        return self.each.drawn(0, count) if part is None else part

    def batch(self, input: Tensor, start: int, stop: int, baseline: float | Tensor) -> Tensor:
        """The input under masks start .. stop."""
        return self.each.batch(input, start, stop, baseline, self._part(slice(start, stop), input.device))

    def accumulated(self, scores: Tensor, which: slice, state: Tensor | None) -> Tensor:
        """The state with some masks added, each times its scores [N, K]."""
        return self.each.accumulate(scores, which.start, state, self._part(which, scores.device))


def designed(design: str, count: int, replicates: int, each: masks.Masks, device: torch.device) -> masks.Design:
    """The masks of a design other than the independent ones, which a seed gives; not to be written to.

    The last are kept, since a copy to a GPU makes the host wait and cannot be part of a CUDA graph.

    Args:
        design: ``antithetic``: pairs with the same offsets in which a cell that one draw keeps the other is as far as
            can be from keeping; ``balanced``: in every 64 masks each cell is kept equally often; ``sobol``: a
            scrambled Sobol sequence over cells and offsets (Owen 1998).
        count: masks.
        replicates: so many that are independent of each other take turns.
        each: what a mask is, and the seed of them all.
        device: where they are to be.
    """
    key = design, count, replicates, each, device
    # What is kept is no tensor of a mode's own kind.
    with torch.inference_mode(False), disable_current_modes():
        return _kept.get(key, lambda: _made(*key))


_kept: Bounded[masks.Design] = Bounded(MOST_BYTES, tuple)


def _made(design: str, count: int, replicates: int, each: masks.Masks, device: torch.device) -> masks.Design:
    draw = {"antithetic": _antithetic, "balanced": _balanced, "sobol": _sobol}[design]
    cells = [-(-extent // number) for extent, number in zip(each.size, each.grid, strict=True)]
    source = np.random.Generator(np.random.Philox(key=[each.seed % 2**64, 0x5A11]))
    turns = -(-count // replicates)
    parts = [draw(source, turns, prod(each.grid), cells, each.probability) for _ in range(replicates)]
    kept, places = (
        np.stack([part[index] for part in parts], 1).reshape(turns * replicates, -1)[:count] for index in (0, 1)
    )
    shape = (len(kept), *each.grid)
    return masks.design_of(_tensor(kept).view(shape), _tensor(places.astype(np.int64))).to(device)


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
