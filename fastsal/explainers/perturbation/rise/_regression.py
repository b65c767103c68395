"""The part of RISE's scores that is linear in the mask, whose map is known: a control variate that a fit finds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal._torch import disable_current_modes
from fastsal.engine.run import Bounded
from fastsal.explainers.perturbation.rise._designs import MOST_BYTES, Masks
from fastsal.ops import masks

FOLDS = 4
MOST_FEATURES = 600
"""A fit takes time in proportion to the third power of their number: here a third of a second on two CPU cores."""
RIDGES = 16
BLOCK = 4096
"""Masks whose features are worked out at once."""


Group = tuple[int, int, int]
"""Of masks: start, stop and step."""


class _Fold(NamedTuple):
    """The ridge regression on all masks but a fold's, as far as it does not depend on the scores.

    Attributes:
        rows, others: the fold's masks and those that it is fitted on.
        vectors: [features, features], the eigenvectors of the others' features.
        shrunk: [ridges, features], the inverse of each eigenvalue plus a ridge.
        explained: [ridges, features], what the square of each projection takes off the residual.
        freedom: [ridges], the degrees of freedom that are left.
    """

    rows: Tensor
    others: Tensor
    vectors: Tensor
    shrunk: Tensor
    explained: Tensor
    freedom: Tensor


class Regression:
    """Scores as a linear function of the mask's means over squares, one more per dimension than the grid has cells.

    All that depends on the masks alone is worked out on the host, and kept: nothing waits for a GPU.

    Args:
        run: the masks.
        groups: of masks, which are in one fold each where there are enough.
        dtype, device: of the scores that will come.
    """

    def __init__(self, run: Masks, groups: tuple[Group, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._probability = run.each.probability
        size, weights = run.each.size, run.each.interpolation()
        pools = [_pool(extent, parts) for extent, parts in zip(size, _squares(size, run.each.grid), strict=True)]
        pooled = [pool @ each for pool, each in zip(pools, weights, strict=True)]
        # E[M(x) z] - p E[z] = p (1 - p) times, in each dimension, the mean over offsets of W (P W)'.
        self._covariances = [
            (torch.einsum("sxc,smc->xm", each, small) / len(each)).to(device, dtype)
            for each, small in zip(weights, pooled, strict=True)
        ]
        count = sum(len(range(*group)) for group in groups)
        features = _features(run, count, pooled)
        self._features = features.to(device, dtype)
        self._folds = [
            _Fold(*(each.to(device, dtype if each.is_floating_point() else each.dtype) for each in fold))
            for fold in _folds(features, groups)
        ]

    def __call__(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(what the other masks' fit tells of each score [N, K], its part of the map [K, *size])."""
        features, predicted = self._features, torch.zeros_like(scores)
        coefficients = scores.new_zeros(features.shape[1], scores.shape[1])
        for fold in self._folds:
            seen = scores.index_select(0, fold.others)
            rotated = fold.vectors.T @ (features.index_select(0, fold.others).T @ seen)
            # Each output has the ridge of least generalised cross-validation (Golub, Heath, Wahba 1979).
            left = (seen.square().sum(0) - fold.explained @ rotated.square()).clamp_min(0)
            best = (left / fold.freedom[:, None].square()).argmin(0)
            fitted = fold.vectors @ (fold.shrunk.index_select(0, best).T * rotated)
            predicted = predicted.index_copy(0, fold.rows, features.index_select(0, fold.rows) @ fitted)
            coefficients += fitted * (len(fold.rows) / len(features))
        return predicted, self._known(coefficients)

    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        return [self._features, *self._covariances, *(tensor for fold in self._folds for tensor in fold)]

    def _known(self, coefficients: Tensor) -> Tensor:
        """(1 - p) times the covariances times the coefficients, [K, *size]."""
        found = coefficients.T.reshape(-1, *(matrix.shape[1] for matrix in self._covariances))
        for axis, matrix in enumerate(self._covariances):
            found = torch.tensordot(found, matrix, dims=([axis + 1], [1])).movedim(-1, axis + 1)
        return (1 - self._probability) * found


def regression(run: Masks, groups: Sequence[slice], dtype: torch.dtype, device: torch.device) -> Regression:
    """The regression for groups of a run's masks, which are all up to some; the last are kept."""
    parts = tuple((each.start, each.stop, each.step or 1) for each in groups)
    key = run.each, run.design, run.total, run.replicates, parts, dtype, device
    # What is kept is no tensor of a mode's own kind.
    with torch.inference_mode(False), disable_current_modes():
        return _kept.get(key, lambda: Regression(run, parts, dtype, device))


_kept: Bounded[Regression] = Bounded(MOST_BYTES, lambda each: each.tensors())


def _features(run: Masks, count: int, pooled: list[Tensor]) -> Tensor:
    """[N, features], without their mean, the probability; made block by block, since a mask's matrices are larger."""
    drawn = run.drawn(count)
    result = torch.empty((count, prod(each.shape[1] for each in pooled)), dtype=torch.float64, device="cpu")
    for start in range(0, count, BLOCK):
        part = slice(start, start + BLOCK)
        grids, offsets = masks.opened(drawn.part(part), run.each.grid)
        found = grids.to(torch.float64)
        for axis, matrices in enumerate(pooled):
            found = found.movedim(axis + 1, -1)
            found = torch.einsum("nmc,n...c->n...m", matrices[offsets[:, axis]], found).movedim(-1, axis + 1)
        torch.sub(found.flatten(1), run.each.probability, out=result[part])
    return result


def _squares(size: Sequence[int], grid: Sequence[int]) -> list[int]:
    """Parts of each dimension: one more than the grid has cells, or fewer where there would be too many squares."""
    parts = [min(cells + 1, extent) for extent, cells in zip(size, grid, strict=True)]
    while prod(parts) > MOST_FEATURES:
        parts[parts.index(max(parts))] -= 1
    return parts


def _pool(extent: int, cells: int) -> Tensor:
    """[cells, extent]: means over equal parts."""
    edges = torch.linspace(0, extent, cells + 1, dtype=torch.float64, device="cpu").round().to(torch.int64).tolist()
    pool = torch.zeros(cells, extent, dtype=torch.float64, device="cpu")
    for row, (low, high) in enumerate(itertools.pairwise(edges)):
        pool[row, low:high] = 1 / max(high - low, 1)
    return pool


def _folds(features: Tensor, groups: Sequence[Group]) -> list[_Fold]:
    """Whole pairs of masks, and whole groups where there are enough, are in one fold."""
    count = len(features)
    with torch.device("cpu"):
        number = torch.arange(count) // 2 % FOLDS
        if len(groups) >= FOLDS:
            for index, group in enumerate(groups):
                number[slice(*group)] = index % FOLDS
        powers = torch.linspace(-3, 2, RIDGES, dtype=torch.float64)
    found = []
    for fold in range(FOLDS):
        rows, others = ((number == fold).nonzero()[:, 0], (number != fold).nonzero()[:, 0])
        if not len(rows) or not len(others):
            continue
        rest = features[others]
        values, vectors = torch.linalg.eigh(rest.T @ rest)
        del rest
        values = values.clamp_min(0)
        shrunk = 1 / (values + (float(values.max()) or 1.0) * 10 ** powers[:, None])
        explained = 2 * shrunk - shrunk.square() * values
        freedom = (len(others) - shrunk @ values).clamp_min(1e-9)
        found.append(_Fold(rows, others, vectors, shrunk, explained, freedom))
    return found
