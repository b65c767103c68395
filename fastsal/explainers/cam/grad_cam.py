"""Grad-CAM: channels weighed by their mean gradient."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.base import ActivationMap


class GradCAM(ActivationMap):
    """Selvaraju et al., "Grad-CAM" (ICCV 2017), equations 1 and 2: w_c = mean of G_c; sum of w_c A_c.

    Costs one forward pass, and a backward pass from the output to the layer.
    """

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients
