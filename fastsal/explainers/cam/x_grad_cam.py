"""XGrad-CAM: gradients weighed by the share that a position has of its channel."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.base import ActivationMap
from fastsal.ops import accumulation_dtype

EPSILON = 1e-7


class XGradCAM(ActivationMap):
    """Fu et al., "Axiom-based Grad-CAM" (BMVC 2020), equation 8: w_c = sum of G A / sum(A).

    Costs what Grad-CAM does.
    """

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        dtype = accumulation_dtype(activations.dtype)
        a, spatial = activations.to(dtype), tuple(range(2, activations.dim()))
        return (gradients.to(dtype) * a / (a.sum(spatial, keepdim=True) + EPSILON)).sum(spatial, keepdim=True)
