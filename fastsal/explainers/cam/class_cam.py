"""CAM, the first of the family: channels weighed by the classifier's own weights."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.base import ActivationMap


class CAM(ActivationMap):
    """Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016), equation 2.

    For networks whose layer is followed by average pooling and linear maps alone, whatever their modules are called:
    there the gradient's sum over a channel is the class's weight of it. Costs what Grad-CAM does.
    """

    asks_affine = True

    def adjust(self, value: Tensor, gradients: Tensor, affine: bool) -> Tensor:
        if not affine:
            raise ValueError("layer: CAM needs one that only average pooling and linear maps follow; take GradCAM")
        return gradients

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.sum(tuple(range(2, gradients.dim())), keepdim=True)
