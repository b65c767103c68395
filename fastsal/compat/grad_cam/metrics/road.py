"""ROAD of Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ICML 2022).

Pixels are removed by the order of a map and imputed from their neighbours, so that what is removed leaves no trace of
its own in the image. In pytorch-grad-cam's form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat.grad_cam._optional import optional
from fastsal.compat.grad_cam.base_cam import Targets
from fastsal.compat.grad_cam.metrics.perturbation_confidence import (
    PERCENTILES,
    AveragerAcrossThresholds,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)

Weighting = Sequence[tuple[tuple[int, int], float]]
neighbors_weights: Weighting = [
    ((down, right), (1 / 12 if down and right else 1 / 6))
    for right in (1, 0, -1)
    for down in (1, 0, -1)
    if down or right
]
"""((rows, columns) to a neighbour, its weight): those beside a pixel count twice those at its corners."""


class NoisyLinearImputer:
    """Missing pixels as the weighted mean of their neighbours, missing ones included, plus noise.

    Args:
        noise: standard deviation of what is added, drawn from torch's global generator.
        weighting: ((rows, columns), weight) of the neighbours.
    """

    def __init__(self, noise: float = 0.01, weighting: Weighting = neighbors_weights) -> None:
        self.noise, self.weighting = noise, weighting

    @staticmethod
    def add_offset_to_indices(
        indices: NDArray[np.intp], offset: tuple[int, int], mask_shape: tuple[int, ...]
    ) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """(whether each pixel's neighbour is in the image, its flat index)."""
        rows, columns = np.divmod(indices, mask_shape[1])
        rows, columns = rows + offset[0], columns + offset[1]
        valid = (rows >= 0) & (rows < mask_shape[0]) & (columns >= 0) & (columns < mask_shape[1])
        return valid, indices + offset[0] * mask_shape[1] + offset[1]

    @staticmethod
    def setup_sparse_system(
        mask: NDArray[Any], img: NDArray[Any], neighbors_weights: Weighting
    ) -> tuple[Any, NDArray[np.float64]]:
        """The equations of the missing pixels: a sparse matrix [n, n] and right-hand sides [n, C].

        Args:
            mask: [H, W], 0 where a pixel is missing.
            img: [C, H, W].
            neighbors_weights: as of the class.

        Raises:
            ImportError: without SciPy.
        """
        sparse = optional("scipy.sparse", "solves for the missing pixels")
        missing = mask.reshape(-1) == 0
        indices = np.flatnonzero(missing)
        place = np.zeros(missing.size, dtype=np.intp)
        place[indices] = np.arange(len(indices))
        pixels = img.reshape(len(img), -1)
        right = np.zeros((len(indices), len(img)))
        weights_sum = np.ones(len(indices))
        rows, columns, entries = [np.arange(len(indices))], [np.arange(len(indices))], [weights_sum]
        for offset, weight in neighbors_weights:
            valid, neighbours = NoisyLinearImputer.add_offset_to_indices(indices, offset, mask.shape)
            weights_sum[~valid] -= weight
            where = np.flatnonzero(valid)
            unknown = missing[neighbours[where]]
            known = where[~unknown]
            right[known] -= weight * pixels[:, neighbours[known]].T
            rows.append(where[unknown])
            columns.append(place[neighbours[where[unknown]]])
            entries.append(np.full(int(unknown.sum()), weight))
        entries[0] = -weights_sum
        shape = (len(indices), len(indices))
        every = np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))
        return sparse.csc_matrix(every, shape=shape), right

    def __call__(self, img: Tensor, mask: Tensor) -> Tensor:
        """The image [C, H, W] with what is 0 in the mask [H, W] replaced; by noise around 0 where nothing is kept."""
        missing = (mask.reshape(-1) == 0).cpu()
        filled = img.reshape(img.shape[0], -1).clone()
        if not bool(missing.any()):
            return filled.reshape_as(img)
        solved: Any = np.zeros((len(missing), len(img)), order="F")
        if not bool(missing.all()):
            solve = optional("scipy.sparse.linalg", "solves for the missing pixels").spsolve
            solved = solve(*self.setup_sparse_system(mask.cpu().numpy(), img.detach().cpu().numpy(), self.weighting))
        values = torch.tensor(solved, dtype=torch.float).reshape(int(missing.sum()), -1).t()
        filled[:, missing.to(img.device)] = (values + self.noise * torch.randn_like(values)).to(filled)
        return filled.reshape_as(img)


class ROADMostRelevantFirst(PerturbationConfidenceMetric):
    """The change of each score where the pixels of highest attribution are removed, float32 [B]; low is good.

    Args:
        percentile: of the map, from which on they are removed.
    """

    def __init__(self, percentile: float = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(PerturbationConfidenceMetric):
    """The same where those of lowest attribution are removed; high is good.

    Args:
        percentile: of one less the map, from which on they are removed.
    """

    def __init__(self, percentile: float = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean of :class:`ROADMostRelevantFirst` over percentiles.

    Args:
        percentiles: those.
    """

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean of :class:`ROADLeastRelevantFirst` over percentiles.

    Args:
        percentiles: those.
    """

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """Half of the difference between both means: high is good.

    Args:
        percentiles: over which they are taken.
    """

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        self.percentiles = list(percentiles)
        self.morf_averager = ROADMostRelevantFirstAverage(percentiles)
        self.lerf_averager = ROADLeastRelevantFirstAverage(percentiles)

    def __call__(
        self, input_tensor: Tensor, cams: NDArray[Any], targets: Targets, model: nn.Module
    ) -> NDArray[np.float32]:
        """float32 [B]; arguments as of :class:`ROADMostRelevantFirst`."""
        least = self.lerf_averager(input_tensor, cams, targets, model)
        found: NDArray[np.float32] = (least - self.morf_averager(input_tensor, cams, targets, model)) * np.float32(0.5)
        return found
