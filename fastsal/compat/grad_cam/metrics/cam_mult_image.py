"""pytorch-grad-cam's change of the score where an image is multiplied by its map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastsal.compat.grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric


def multiply_tensor_with_cam(input_tensor: Tensor, cam: Tensor) -> Tensor:
    """An image [C, H, W], already normalised, times its map [H, W]."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """The change of each score where the image is multiplied by its map, float32 [B]."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """How much each score falls, or 0."""

    def __call__(self, *args: Any, **kwargs: Any) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.maximum(-super().__call__(*args, **kwargs), 0)
        return found


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """1 where a score rises, else 0."""

    def __call__(self, *args: Any, **kwargs: Any) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (super().__call__(*args, **kwargs) > 0).astype(np.float32)
        return found
