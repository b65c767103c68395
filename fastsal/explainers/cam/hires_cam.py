"""HiResCAM: gradient times activation, position by position."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.base import ActivationMap


class HiResCAM(ActivationMap):
    """Draelos and Carin, "HiResCAM" (2020), section 3.2: sum over channels of G A.

    Where the layer is followed by a linear map alone, its sum is the score less the bias. Costs what Grad-CAM does.
    """

    elementwise = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients
