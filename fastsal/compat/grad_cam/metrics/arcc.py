"""pytorch-grad-cam's ARCC: one number of how simple, coherent and faithful a map is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat.grad_cam.base_cam import BaseCAM, Targets
from fastsal.compat.grad_cam.metrics.road import ROADCombined

_EPSILON = 1e-8


def batch_pearson_coherency(A: NDArray[Any], B: NDArray[Any]) -> NDArray[Any]:
    """Pearson's correlation of two batches of maps [B, ...], example by example, [B]."""
    first, second = (each.reshape(len(each), -1) for each in (A, B))
    first, second = (each - each.mean(1, keepdims=True) for each in (first, second))
    rest = first.shape[1] - 1
    deviations = [np.sqrt((each**2).sum(1) / rest) for each in (first, second)]
    found: NDArray[Any] = (first * second).sum(1) / rest / (deviations[0] * deviations[1] + _EPSILON)
    return found


class Complexity:
    """The mean size of a map's values, [B]: Poppi et al., "Revisiting The Evaluation of CAMs" (CVPR Workshops 2021)."""

    def __call__(self, grayscale_cams: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = np.abs(grayscale_cams).reshape(len(grayscale_cams), -1).mean(1)
        return found


class Coherency:
    """The correlation of a map with the map of the image times the map, from 0 to 1, [B]; of the same paper."""

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: NDArray[Any],
        targets: Targets,
        model: nn.Module,
        base_method: BaseCAM,
    ) -> NDArray[Any]:
        masked = input_tensor * torch.from_numpy(grayscale_cams)[:, None].to(input_tensor.device)
        again = base_method(input_tensor=masked, targets=targets)
        found: NDArray[Any] = (batch_pearson_coherency(again, grayscale_cams) + 1) / 2
        return found


class ARCC:
    """The harmonic mean of coherency, one less complexity, and ROAD, [B].

    Args:
        base_method: the object that makes the maps.
        road_percentiles: over which ROAD is taken.
    """

    def __init__(self, base_method: BaseCAM, road_percentiles: Sequence[float] = (20, 40, 60, 80)) -> None:
        self.complexity, self.coherency = Complexity(), Coherency()
        self.road, self.base_method = ROADCombined(percentiles=road_percentiles), base_method

    def __call__(
        self, input_tensor: Tensor, grayscale_cams: NDArray[Any], targets: Targets, model: nn.Module
    ) -> NDArray[Any]:
        """Arguments as of the parts."""
        simple = 1 - self.complexity(grayscale_cams)
        coherent = self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method)
        # ROAD is from -0.5 to 0.5.
        faithful = (self.road(input_tensor, grayscale_cams, targets, model) * 2).clip(0, 1)
        parts = np.stack([coherent, simple, faithful])
        found: NDArray[Any] = 3 / (1 / (parts + _EPSILON)).sum(0)
        return found
