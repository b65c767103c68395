"""Eigen-CAM and Eigen-Grad-CAM: the first principal component of the activations."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.explainers.cam.base import ActivationMap
from fastsal.explainers.cam.principal import principal_projection
from fastsal.ops import accumulation_dtype


class EigenCAM(ActivationMap):
    """Muhammad and Yeasin, "Eigen-CAM" (IJCNN 2020), equations 3 and 4, of centred activations.

    Explains the layer, not a target: no gradient is taken. Costs one forward pass and one eigenvector per example.
    """

    needs_gradients = False

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return torch.ones((), device=activations.device)

    def _summed(self, activations: Tensor, field: Tensor, eigen_smooth: bool) -> tuple[Tensor, None]:
        wide = accumulation_dtype(activations.dtype)
        return principal_projection(activations.to(wide) * field.to(wide))[:, None], None


class EigenGradCAM(EigenCAM):
    """Eigen-CAM of gradient times activation, so of a target. Costs what Grad-CAM does, and one eigenvector each."""

    needs_gradients = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients
