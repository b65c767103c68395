"""Grad-CAM with each product of gradient and activation rectified."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.base import ActivationMap


class GradCAMElementWise(ActivationMap):
    """Pillai and Pirsiavash, "Explainable Models with Consistent Interpretations" (AAAI 2021): sum of relu(G A).

    Costs what Grad-CAM does.
    """

    elementwise = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.where(gradients * activations > 0, 0)
