"""How RISE's map is estimated from the scores of its masks: E[f M] / p, where M is a mask and f its score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.ops import masks

ESTIMATORS = ("plain", "centred", "regression")
FOLDS = 4
RIDGES = 24


def checked_estimator(estimator: str) -> str:
    """An estimator's name.

    Raises:
        ValueError: for another.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: {estimator!r} is not one of {', '.join(ESTIMATORS)}")
    return estimator


class Masks(NamedTuple):
    """The masks of a run, as ``fastsal.ops.masks`` takes them.

    Attributes:
        size, grid, border, probability, seed: of all masks.
        design: masks that are not the seed's.
    """

    size: list[int]
    grid: list[int]
    border: masks.Border
    probability: float
    seed: int
    design: masks.Design | None

    def _part(self, start: int, stop: int) -> masks.Design | None:
        return None if self.design is None else self.design.part(start, stop)

    def drawn(self, count: int) -> masks.Design:
        """The first masks, of the seed's too."""
        part = self._part(0, count)
        if part is not None:
            return part
        grid = tuple(self.grid)
        return masks.drawn(0, count, self.size, seed=self.seed, grid_size=grid, probability=self.probability)

    def batch(self, input: Tensor, start: int, stop: int, baseline: float | Tensor) -> Tensor:
        """The input under masks start .. stop."""
        return masks.batch(
            input,
            start,
            stop,
            seed=self.seed,
            grid_size=tuple(self.grid),
            probability=self.probability,
            border=self.border,
            baseline=baseline,
            design=self._part(start, stop),
        )

    def accumulated(self, scores: Tensor, start: int, state: Tensor | None) -> Tensor:
        """The state with the masks from ``start`` added, each times its scores [N, K]."""
        return masks.accumulate(
            scores,
            start,
            self.size,
            seed=self.seed,
            grid_size=tuple(self.grid),
            probability=self.probability,
            partial=state,
            design=self._part(start, start + scores.shape[0]),
        )

    def finished(self, state: Tensor) -> Tensor:
        """Maps [K, *size] of a state."""
        return masks.finish(state, self.size, grid_size=tuple(self.grid), border=self.border)


def estimated(scores: Tensor, estimator: str, run: Masks, sizes: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """(maps [K, *size], standard errors or None).

    The plain estimator is the mean of f M / p. The centred one takes the mean score off f, which a mask's mean times
    it adds again: what all masks share makes no noise. The regression takes off what a linear function of the mask's
    means over squares tells of f, whose part of the map is known in closed form (a control variate); it is fitted on
    other masks than those that it is used on, so that the estimate stays without bias.

    Args:
        scores: [N, K].
        estimator: one of :data:`ESTIMATORS`.
        run: the masks.
        sizes: masks of each replicate; with more than one there are standard errors, by their spread.
    """
    wide = scores.to(torch.float64)
    p, known = run.probability, None
    if estimator == "plain":
        rest, added = wide, wide.new_zeros(wide.shape[1])
    else:
        added = wide.mean(0)
        rest = wide - added
    if estimator == "regression":
        fit = _Regression(run, len(wide))
        predicted, known = fit.predictions(rest, sizes)
        rest = rest - predicted
    maps, start = [], 0
    for count in sizes:
        part = rest[start : start + count].to(scores.dtype)
        maps.append(run.finished(run.accumulated(part, start, None)).to(torch.float64) / (count * p))
        start += count
    stacked = torch.stack(maps) + added.view(-1, *[1] * len(run.size)) + (0.0 if known is None else known)
    weights = torch.tensor(sizes, dtype=torch.float64, device=stacked.device) / sum(sizes)
    mean = torch.einsum("r,r...->...", weights, stacked)
    if len(sizes) == 1:
        return mean, None
    spread = (stacked - mean).square().sum(0) / (len(sizes) - 1)
    return mean, (spread / len(sizes)).sqrt()


class _Regression:
    """Scores as a linear function of the mask's means over squares, one more per dimension than the grid has cells."""

    def __init__(self, run: Masks, count: int) -> None:
        self._run = run
        weights = masks.interpolation(run.size, tuple(run.grid), border=run.border)
        pools = [_pool(extent, min(cells + 1, extent)) for extent, cells in zip(run.size, run.grid, strict=True)]
        self._pooled = [pool @ each for pool, each in zip(pools, weights, strict=True)]
        # E[M(x) z] - p E[z] = p (1 - p) times, in each dimension, the mean over offsets of W (P W)'.
        self._covariances = [
            torch.einsum("sxc,smc->xm", each, pooled) / len(each)
            for each, pooled in zip(weights, self._pooled, strict=True)
        ]
        self._features = self._of_masks(count)

    def _of_masks(self, count: int) -> Tensor:
        """[N, features], without their mean, the probability."""
        run = self._run
        grids, offsets = masks.opened(run.drawn(count), run.grid)
        found = grids.to(torch.float64)
        for axis in range(len(run.size)):
            matrices = self._pooled[axis].to(found.device)[offsets[:, axis]]
            found = torch.einsum("nmc,n...c->n...m", matrices, found.movedim(axis + 1, -1)).movedim(-1, axis + 1)
        return found.flatten(1) - run.probability

    def predictions(self, scores: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(what the other masks' fit tells of each score [N, K], its part of the map [K, *size])."""
        device = scores.device
        features = self._features.to(device)
        count = len(features)
        # Whole pairs, and whole replicates where there are enough, are in one fold.
        replicate = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)
        folds = replicate % FOLDS if len(sizes) >= FOLDS else torch.arange(count, device=device) // 2 % FOLDS
        predicted = torch.zeros_like(scores)
        coefficients = scores.new_zeros(features.shape[1], scores.shape[1])
        for fold in range(FOLDS):
            inside = folds == fold
            if not inside.any() or inside.all():
                continue
            fitted = _ridge(features[~inside], scores[~inside])
            predicted[inside] = features[inside] @ fitted
            coefficients += fitted * inside.sum() / count
        return predicted, self._known(coefficients)

    def _known(self, coefficients: Tensor) -> Tensor:
        """(1 - p) times the covariances times the coefficients, [K, *size]."""
        shape = [matrix.shape[1] for matrix in self._covariances]
        found = coefficients.T.reshape(-1, *shape)
        for axis, matrix in enumerate(self._covariances):
            found = torch.tensordot(found, matrix.to(found), dims=([axis + 1], [1])).movedim(-1, axis + 1)
        return (1 - self._run.probability) * found


def _pool(extent: int, cells: int) -> Tensor:
    """[cells, extent]: means over equal parts."""
    edges = torch.linspace(0, extent, cells + 1, dtype=torch.float64, device="cpu").round().to(torch.int64).tolist()
    pool = torch.zeros(cells, extent, dtype=torch.float64, device="cpu")
    for row, (low, high) in enumerate(itertools.pairwise(edges)):
        pool[row, low:high] = 1 / max(high - low, 1)
    return pool


def _ridge(features: Tensor, scores: Tensor) -> Tensor:
    """Coefficients [features, K], each output with the ridge of least generalised cross-validation (Golub 1979)."""
    count = len(features)
    values, vectors = torch.linalg.eigh(features.T @ features)
    values = values.clamp_min(0)
    rotated = vectors.T @ (features.T @ scores)
    scale = float(values.max()) or 1.0
    best: Any = None
    for power in torch.linspace(-6, 2, RIDGES).tolist():
        shrunk = 1 / (values + scale * 10**power)
        explained = ((2 * shrunk - shrunk.square() * values)[:, None] * rotated.square()).sum(0)
        residual = (scores.square().sum(0) - explained).clamp_min(0)
        freedom = count - float((values * shrunk).sum())
        error = residual / max(freedom, 1e-9) ** 2
        fitted = shrunk[:, None] * rotated
        if best is None:
            best = (error, fitted)
        else:
            better = error < best[0]
            best = (torch.where(better, error, best[0]), torch.where(better, fitted, best[1]))
    result: Tensor = vectors @ best[1]
    return result
