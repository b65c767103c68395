"""Which dimensions of a layer follow blocks of the input that change: every way to read it, scored.

Under the right one the change lies where the block is: the score is the correlation of the change of each position in
each row with what is expected, both less their means over rows and over positions. The change of a row is taken as its
shares, and that of a position in proportion to its mean over the rows, so that neither strong blocks nor tokens that
follow all blocks decide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from fastsal.engine.reading.geometry.blocks import Blocks
from fastsal.engine.run.caches import freed

MOST_EXTRA = 16
"""Class, distillation and register tokens."""
HARDLY = "it hardly changes with the input"
UNEVEN = "its positions are not spread evenly over the input"
LEAST_SCORE, LEAST_CORRELATION, LEAST_LEAD, LEAST_SEEN, LEAST_POSITIONS = 0.45, 0.7, 0.02, 5, 4
"""What an answer must reach: the score, the correlation of block and change along every axis, the score before the next
reading's, the blocks that the layer saw, and its positions. Between 0.40 and 0.60 the first hardly matters."""
LEAST_OF_A_GRID = 16
"""Positions of several axes: a few channels read as an axis are as likely with fewer."""
_FOLLOWS = 0.3
"""A score from which on a dimension follows an axis, though not clearly."""
_LEAST_SPREAD = 0.05
"""Of a dimension's shares over the blocks, in those of the one that follows them most."""
_ALIKE = 0.03
"""Scores of a line that lie so near each other tell nothing."""
_BORDER = 1.4
"""How many times as much as with blocks far away a position at a border changes with those there, at least."""
_APART = 0.15
"""By how much a position axis must beat another where the layer has the input's channels still."""
_KEPT = 6
"""Readings of one dimension with as many extra tokens: the others are behind these anyway."""
_MOST_BESIDE, _MOST_BESIDE_CELLS = 0.04, 0.6
"""How far changes may lie beside their blocks in the mean: in parts of the side, or in cells where these are larger."""
_WIDTHS = (1.0, 2.5)
"""Of what is expected, in sizes of block and cell together."""


@dataclass(frozen=True)
class Reading:
    """One way to read a layer.

    Attributes:
        dims: its dimension for each axis, counted without that of the examples.
        axes: which of the blocks' axes, as they lie in the layer.
        grid: positions along each.
        before, behind: tokens of no position.
        score: how well it fits.
        correlation: of blocks and change, along the worst axis.
        even: whether the change lies, in the mean, where equal parts of the input would put it.
    """

    dims: tuple[int, ...]
    axes: tuple[int, ...]
    grid: tuple[int, ...]
    before: int
    behind: int
    score: float
    correlation: float = 0.0
    even: bool = True


def best_reading(change: Tensor, blocks: Blocks) -> Reading | str:
    """The reading of a layer's change [K, ...], or why there is none.

    Args:
        change: absolute, for each block.
        blocks: what was changed.
    """
    total = change.flatten(1).sum(1)
    told = total > 1e-6 * total.max()
    if int(told.sum()) < LEAST_SEEN:
        return HARDLY
    change = change[told].double()
    if not bool(told.all()):
        blocks = blocks._replace(centres=blocks.centres[told], sides=blocks.sides[told], bumps={})
    candidates = list(_candidates(change, blocks))
    for count in range(len(blocks.axes), 0, -1):  # one axis alone is always easier
        mine = [each for each in candidates if len(each.axes) == count]
        good = _checked(mine, change, blocks)
        if not good:
            continue
        best = good[0]
        alone = [each.score for each in candidates if set(each.dims) == set(best.dims) and len(each.axes) < count]
        if len(set(best.dims)) == 1 and max(alone, default=0.0) > best.score:
            continue  # a series that also reads as rows of two
        rivals = [each.score for each in good[1:] if not (count == 1 and each.dims == best.dims)]
        twice = [each.score for each in mine if not set(each.dims) & set(best.dims) and each.axes == best.axes]
        if max(twice, default=0.0) > 0.5 * best.score:
            return "two of its dimensions follow one axis of the input"
        if best.score < LEAST_SCORE or best.score - max(rivals, default=0.0) < LEAST_LEAD:
            continue
        others = [
            each.score
            for each in candidates
            if not set(each.axes) & set(best.axes) and not set(each.dims) & set(best.dims)
        ]
        if len(set(best.dims)) == change.dim() - 1 > 1:
            continue  # which leaves no channels
        if not best.even:
            return UNEVEN
        if count == 1 and not _is_told(best, good, change, blocks):
            return "it is not clear how many of its tokens are of no place"
        if max(others, default=0.0) >= (_FOLLOWS if count > 1 else max(_FOLLOWS, best.score - _APART)):
            continue
        return best
    return "its changes do not follow the input's"


def _is_told(reading: Reading, readings: list[Reading], change: Tensor, blocks: Blocks) -> bool:
    """Whether a line's tokens are known to be its positions, all of them.

    One of no place more or less hardly moves a line, so the score does not tell: they are where they are equal parts of
    the input, where no other number would be, and where the first and the last change with the blocks at their border
    rather than with all alike, as a class token does.
    """
    (dim,), (axis,) = reading.dims, reading.axes
    near = [each for each in readings if each.score >= readings[0].score - _ALIKE and each.dims == reading.dims]
    equal = {each.grid for each in near if blocks.extents[axis] % each.grid[0] == 0}
    if reading.before or reading.behind or equal != {reading.grid}:
        return False
    shares = _shares(_summed(change, (dim,)))[blocks.centres[:, axis].argsort()]  # [K, tokens]
    few, half = len(shares) // 4, len(shares) // 2
    first, last = shares[:, 0], shares[:, -1].flip(0)
    return all(bool(each[:few].mean() >= _BORDER * each[half:].mean()) for each in (first, last))


def _checked(readings: list[Reading], change: Tensor, blocks: Blocks) -> list[Reading]:
    """The best few whose every axis follows by itself."""
    readings = sorted(readings, key=lambda each: (-round(each.score, 6), each.before + each.behind))
    if readings and len(readings[0].axes) == 1:  # a token more or less hardly moves a line
        top = readings[0].score
        readings.sort(key=lambda each: (each.score < top - _ALIKE, each.before + each.behind, -each.score))
    found = []
    for each in readings[:12]:
        correlation, even = _followed(each, change, blocks)
        least = LEAST_POSITIONS if len(each.axes) == 1 else LEAST_OF_A_GRID
        if correlation >= LEAST_CORRELATION and math.prod(each.grid) >= least:
            found.append(replace(each, correlation=correlation, even=even))
    return found


def _candidates(change: Tensor, blocks: Blocks) -> Iterator[Reading]:
    spread = {
        dim: float(_shares(_summed(change, (dim,))).var(0).mean())
        for dim in range(change.dim() - 1)
        if change.shape[1 + dim] > 1
    }
    # Channels answer to all blocks much alike.
    dims = [dim for dim, each in spread.items() if each >= _LEAST_SPREAD * max(spread.values())]
    axes = range(len(blocks.axes))
    for count in range(1, min(len(dims), len(axes)) + 1):
        for chosen in itertools.combinations(dims, count):
            found = _normal(_summed(change, chosen))
            if found is None:
                continue
            for owners in itertools.product(range(-1, count), repeat=len(axes)):
                groups = [[axis for axis in axes if owners[axis] == place] for place in range(count)]
                if not all(groups) or sum(len(group) > 1 for group in groups) > 1:
                    continue
                for orders in itertools.product(*map(itertools.permutations, groups)):
                    yield from _scored(found, chosen, orders, blocks)


def _summed(change: Tensor, dims: Sequence[int]) -> Tensor:
    rest = [1 + dim for dim in range(change.dim() - 1) if dim not in dims]
    return change.sum(rest) if rest else change


def _normal(change: Tensor) -> Tensor | None:
    """Shares of each row, in proportion to the positions' means, centred over rows and positions."""
    shares = _shares(change)
    centred = shares - shares.mean(0, keepdim=True)
    centred = centred - centred.flatten(1).mean(1).view(-1, *[1] * (change.dim() - 1))
    norm = centred.norm()
    return centred / norm if norm > 0 else None


def _shares(change: Tensor) -> Tensor:
    rows = change.flatten(1).sum(1).view(-1, *[1] * (change.dim() - 1))
    shares = change / rows.clamp_min(1e-300)
    mean = shares.mean(0, keepdim=True)
    seen = mean > 1e-9 * mean.max().clamp_min(1e-300)
    return torch.where(seen, shares / mean.clamp_min(1e-300), torch.zeros_like(shares))


def _scored(found: Tensor, dims: Sequence[int], groups: Sequence[Sequence[int]], blocks: Blocks) -> Iterator[Reading]:
    """The readings of dimensions that hold these axes each."""
    if len(dims) == 1:
        yield from _scored_list(found, dims[0], tuple(groups[0]), blocks)
        return
    options = [
        [(found.shape[1 + place],)]
        if len(group) == 1
        else _factorings(found.shape[1 + place], tuple(blocks.extents[axis] for axis in group))
        for place, group in enumerate(groups)
    ]
    axes = tuple(axis for group in groups for axis in group)
    for grids in itertools.product(*options):
        if any(
            count > blocks.extents[axis]
            for group, grid in zip(groups, grids, strict=True)
            for axis, count in zip(group, grid, strict=True)
        ):
            continue
        score = max(float((found * _unit(_expected(groups, grids, blocks, width))).sum()) for width in _WIDTHS)
        where = tuple(dim for dim, group in zip(dims, groups, strict=True) for _ in group)
        yield Reading(where, axes, tuple(count for grid in grids for count in grid), 0, 0, score)


def _expected(
    groups: Sequence[Sequence[int]], grids: Sequence[tuple[int, ...]], blocks: Blocks, width: float
) -> Tensor:
    """[K, *dimensions] of what a change is to be."""
    result = torch.ones(len(blocks.centres), *[1] * len(groups), dtype=torch.float64)
    for place, (group, grid) in enumerate(zip(groups, grids, strict=True)):
        each = _list(group, grid, blocks, width)
        result = result * each.view(-1, *[each.shape[1] if place == at else 1 for at in range(len(groups))])
    return result


def _list(group: Sequence[int], grid: tuple[int, ...], blocks: Blocks, width: float) -> Tensor:
    """[K, positions] of axes that lie in one dimension."""
    result = _bump(blocks, group[0], grid[0], width)
    for axis, count in zip(group[1:], grid[1:], strict=True):
        result = (result[:, :, None] * _bump(blocks, axis, count, width)[:, None, :]).flatten(1)
    return result


def _bump(blocks: Blocks, axis: int, count: int, width: float) -> Tensor:
    """[K, count] of one axis."""
    key = axis, count, width
    if key not in blocks.bumps:
        at = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        wide = width * torch.hypot(blocks.sides[:, axis] / 2, torch.tensor(0.5 / count, dtype=torch.float64))
        blocks.bumps[key] = torch.exp(-0.5 * ((at - blocks.centres[:, axis, None]) / wide[:, None]) ** 2)
    return blocks.bumps[key]


def _unit(expected: Tensor) -> Tensor:
    centred = expected - expected.mean(0, keepdim=True)
    centred = centred - centred.flatten(1).mean(1).view(-1, *[1] * (expected.dim() - 1))
    unit: Tensor = centred / centred.norm().clamp_min(1e-300)
    return unit


def _scored_list(found: Tensor, dim: int, group: tuple[int, ...], blocks: Blocks) -> Iterator[Reading]:
    """One dimension that holds all axes, with tokens of no place around them: flat is what is expected of these."""
    count = found.shape[1]
    extents = tuple(blocks.extents[axis] for axis in group)
    for extra in range(min(MOST_EXTRA, count - 2) + 1):
        within = count - extra
        grids = _factorings(within, extents)
        if not grids:
            continue
        windows = found.unfold(1, within, 1)  # [K, extra + 1, within]
        best: Tensor | None = None
        for width in _WIDTHS:
            expected = torch.stack([_list(group, grid, blocks, width) for grid in grids])  # [grids, K, within]
            expected = expected - expected.mean(1, keepdim=True)
            norm = expected.square().sum((1, 2)) - (expected.sum(2).square() / count).sum(1)
            scores = torch.einsum("kew,gkw->ge", windows, expected) / norm.clamp_min(1e-300).sqrt()[:, None]
            best = scores if best is None else best.maximum(scores)
        assert best is not None
        kept = best.flatten().topk(min(_KEPT, best.numel()))
        for score, place in zip(kept.values.tolist(), kept.indices.tolist(), strict=True):
            grid, before = grids[place // (extra + 1)], place % (extra + 1)
            yield Reading((dim,) * len(group), group, grid, before, extra - before, score)


@freed
@lru_cache(maxsize=4096)
def _factorings(count: int, most: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Grids of so many positions, no axis with more than its extent; a line may be padded."""
    if len(most) == 1:
        return [(count,)] if 2 <= count <= most[0] + MOST_EXTRA else []
    return [
        (first, *rest)
        for first in range(2, min(count // 2, most[0]) + 1)
        if count % first == 0
        for rest in _factorings(count // first, most[1:])
        if rest[-1] <= most[-1]
    ]


def _followed(reading: Reading, change: Tensor, blocks: Blocks) -> tuple[float, bool]:
    """The correlation of the centres of blocks and changes along the worst axis, and whether none lies beside."""
    dims = sorted(set(reading.dims))
    shares = _shares(_summed(change, dims))
    if len(dims) == 1:
        shares = shares.narrow(1, reading.before, shares.shape[1] - reading.before - reading.behind)
    sizes = [count for dim in dims for at, count in zip(reading.dims, reading.grid, strict=True) if at == dim]
    axes = [axis for dim in dims for at, axis in zip(reading.dims, reading.axes, strict=True) if at == dim]
    weights = (shares.reshape(len(shares), *sizes) - 1).clamp_min(0).square()
    worst, even = 1.0, True
    for place, axis in enumerate(axes):
        along = weights.sum([1 + at for at in range(len(axes)) if at != place]) if len(axes) > 1 else weights
        centre = (along * torch.arange(along.shape[1])).sum(1) / along.sum(1).clamp_min(1e-300)
        pair = torch.stack([centre, blocks.centres[:, axis]])
        worst = min(worst, float(torch.corrcoef(pair)[0, 1].nan_to_num(0.0)))
        beside = ((centre + 0.5) / along.shape[1] - blocks.centres[:, axis]).mean().abs()
        even = even and float(beside) <= max(_MOST_BESIDE, _MOST_BESIDE_CELLS / along.shape[1])
    return worst, even
