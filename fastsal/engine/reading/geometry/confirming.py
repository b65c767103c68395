"""Whether a reading that blocks of the input suggested holds for bands, which were not asked when it was chosen.

Bands across one axis after the other tell of each token by itself where it looks: where the bands lie that it answers
to more than to most. One of no place answers to all alike. So what the blocks' score hardly tells, a row or a token
more or less, is seen at the tokens in question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.engine.reading.geometry.bands import Bands
from fastsal.engine.reading.geometry.hypotheses import UNEVEN, Reading

ELSEWHERE = "its positions do not look where they should"
"""At bands, by the reading of the blocks."""
UNCLEAR = "it is not clear where its positions begin and end"
BESIDES = "its positions follow one more dimension of the input"
LEAST_EXPLAINED = 0.75
"""Of the variance of where tokens look, by their places along the axis."""
LEAST_APART = 0.5
"""How far the first and last places look apart, in what equal parts of the input would be."""
LEAST_AT_ENDS, MOST_BEYOND = 0.6, 0.5
"""How much of what the last tokens answer is local, in parts of what is so of the median token; and what it may be of
one that is of no place. Here and below 1 is expected of a position and 0 of another."""
LEAST_ALIKE, MOST_ALIKE = 0.5, 0.4
"""How much an outermost row answers as the others along the other axes, and what one of tokens of no place may."""
MOST_BESIDES, LITTLE_BESIDES, BY_PLACE = 0.65, 0.25, 0.6
"""What is local and apart along an axis that is not in the reading, in what is local along the others: at random, and
where so much of its variance is by rows or columns."""
_MOST_BESIDE, _MOST_BESIDE_CELLS = 0.04, 0.375
"""How far places may look beside equal parts of the input in the mean, in parts of the side or in cells where these are
larger: of an input that is cut at one end the last looks twice as far beside, here by three quarters of a step."""
_UNSEEN = 1e-6
"""Of the band that changes most: one that changes less is not seen, but for rounding."""


class _Along(NamedTuple):
    """Of tokens, what the bands across one axis show.

    Attributes:
        parts: [bands, ...] of a token's answers, less their mean.
        local: [...] of them what is more than for most bands.
        centre: [...] of that, from 0 to 1.
    """

    parts: Tensor
    local: Tensor
    centre: Tensor


def confirmed(reading: Reading, change: Tensor, bands: Bands) -> str | None:
    """What speaks against a reading, if anything does.

    Args:
        reading: of a layer.
        change: [K, ...] of its value, absolute, for each band.
        bands: what was changed.
    """
    dims = sorted(set(reading.dims))
    order = sorted(range(len(reading.dims)), key=lambda place: reading.dims[place])  # stable: the slowest first
    grid, axes = [reading.grid[place] for place in order], [reading.axes[place] for place in order]
    rest = [1 + dim for dim in range(change.dim() - 1) if dim not in dims]
    shares = (change.sum(rest) if rest else change).double()
    total = shares.flatten(1).sum(1)
    total = torch.where(total > _UNSEEN * total.max(), total, math.inf)
    shares = shares / total.view(-1, *[1] * (shares.dim() - 1))
    around: list[Tensor] = []
    if len(dims) == 1:
        last = shares.shape[1] - reading.behind
        # The nearest to the positions first.
        around = [shares[:, : reading.before].flip(1), shares[:, last:]]
        shares = shares[:, reading.before : last]
    shares = shares.reshape(len(shares), *grid)
    along = [_along(shares, bands, axis) for axis in axes]
    if not all(_explained(each, place) for place, each in enumerate(along)):
        return ELSEWHERE
    if not all(_even(each, place) for place, each in enumerate(along)):
        return UNEVEN
    if not all(_at_ends(each, place) for place, each in enumerate(along)):
        return UNCLEAR
    if len(dims) == 1 and not _bounded(shares, along, around, bands, axes):
        return UNCLEAR
    spread = max(sum(float(each.local.mean()) for each in along) / len(along), 1e-300)
    left = [_along(shares, bands, axis) for axis in bands.of if axis not in axes]
    return BESIDES if any(_follows(each, spread) for each in left) else None


def _along(shares: Tensor, bands: Bands, axis: int) -> _Along:
    rows = bands.of[axis]
    parts = shares[rows] / shares[rows].sum(0).clamp_min(1e-300)
    above = (parts - parts.median(0).values).clamp_min(0)
    local = above.sum(0)
    centre = (above * bands.centres[rows].view(-1, *[1] * local.dim())).sum(0) / local.clamp_min(1e-300)
    return _Along(parts - parts.mean(0), local, centre)


def _explained(along: _Along, place: int) -> bool:
    """Whether tokens look where their places along an axis say, and in its direction."""
    count, width = along.local.shape[place], along.local.dim()
    want = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    placed = want.view(*[-1 if at == place else 1 for at in range(width)]).expand_as(along.centre)
    weights = along.local / along.local.sum().clamp_min(1e-300)
    x, y = (each - (weights * each).sum() for each in (placed, along.centre))
    both, of_place, of_centre = ((weights * each).sum() for each in (x * y, x * x, y * y))
    if not bool(both > 0) or float(both**2 / (of_place * of_centre)) < LEAST_EXPLAINED:
        return False
    centres = _centres(along, place)
    return bool(centres[-1] - centres[0] >= LEAST_APART * (want[-1] - want[0]))


def _centres(along: _Along, place: int) -> Tensor:
    """[count] where the places along an axis look."""
    others = [at for at in range(along.local.dim()) if at != place]
    if not others:
        return along.centre
    return (along.local * along.centre).sum(others) / along.local.sum(others).clamp_min(1e-300)


def _even(along: _Along, place: int) -> bool:
    """Whether places look, in the mean, where equal parts of the input lie."""
    beside = (_centres(along, place) - 0.5).mean().abs()
    return bool(beside <= max(_MOST_BESIDE, _MOST_BESIDE_CELLS / along.local.shape[place]))


def _at_ends(along: _Along, place: int) -> bool:
    """Whether the first and the last places answer locally, as the others."""
    others = [at for at in range(along.local.dim()) if at != place]
    local = along.local.mean(others) if others else along.local
    return bool(torch.minimum(local[0], local[-1]) >= LEAST_AT_ENDS * local.median())


def _bounded(shares: Tensor, along: list[_Along], around: list[Tensor], bands: Bands, axes: Sequence[int]) -> bool:
    """Whether one dimension's outermost rows are of positions and none beyond them is."""
    if len(axes) == 1:
        most = MOST_BEYOND * along[0].local.median()
        return all(bool((_along(tokens, bands, axes[0]).local <= most).all()) for tokens in around)
    size = shares[0, 0].numel()
    inner = [each.parts for each in along[1:]]
    if _alike([each[:, 0] for each in inner], [each[:, 1:] for each in inner]) < LEAST_ALIKE:
        return False
    if _alike([each[:, -1] for each in inner], [each[:, :-1] for each in inner]) < LEAST_ALIKE:
        return False
    for number, tokens in enumerate(around):
        if tokens.shape[1] >= size:
            row = tokens[:, :size] if number else tokens[:, :size].flip(1)
            beyond = row.reshape(len(row), *shares.shape[2:])
            if _alike([_along(beyond, bands, axis).parts for axis in axes[1:]], inner) > MOST_ALIKE:
                return False
    return True


def _alike(row: list[Tensor], rows: list[Tensor]) -> float:
    """How much of the others' mean is in one row; for each axis but the slowest [bands, ...] and [bands, rows, ...]."""
    means = [each.mean(1) for each in rows]
    both = sum(float((one * mean).sum()) for one, mean in zip(row, means, strict=True))
    return both / max(sum(float(mean.square().sum()) for mean in means), 1e-300)


def _follows(along: _Along, spread: float) -> bool:
    """Whether tokens look in different places along an axis that the reading does not have.

    Channels, say of colours, count for one token more and for another less, though not by rows and columns.
    """
    weights = along.local / along.local.sum().clamp_min(1e-300)
    apart = along.centre - (weights * along.centre).sum()
    variance = (weights * apart.square()).sum().clamp_min(1e-300)
    found = float(along.local.mean()) * float((12 * variance).sqrt()) / spread
    by_place = 0.0
    for place in range(apart.dim()) if apart.dim() > 1 else ():
        others = [at for at in range(apart.dim()) if at != place]
        held = weights.sum(others)
        means = (weights * apart).sum(others) / held.clamp_min(1e-300)
        by_place = max(by_place, float((held * means.square()).sum() / variance))
    return found >= (LITTLE_BESIDES if by_place >= BY_PLACE else MOST_BESIDES)
