"""LayerCAM: each position weighed by its own positive gradient."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.base import ActivationMap


class LayerCAM(ActivationMap):
    """Jiang et al., "LayerCAM" (IEEE TIP 2021), equations 4 to 6: sum over channels of relu(G) A.

    Costs what Grad-CAM does. Made for early layers too, where a mean gradient says little.
    """

    elementwise = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.relu()
