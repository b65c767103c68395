"""XGrad-CAM: gradients weighed by the share that a position has of its channel."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap
from fastsal.ops import accumulation_dtype

EPSILON = 1e-7


class XGradCAM(GradientMap):
    """Fu et al., "Axiom-based Grad-CAM" (BMVC 2020), equation 8: w_c = sum of G A / sum(A).

    Costs what Grad-CAM does.

    >>> maps = fastsal.XGradCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "Grad-CAM with gradients weighed by a position's share of its channel"
    exportable = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        dtype = accumulation_dtype(activations.dtype)
        a, spatial = activations.to(dtype), tuple(range(2, activations.dim()))
        return (gradients.to(dtype) * a / (a.sum(spatial, keepdim=True) + EPSILON)).sum(spatial, keepdim=True)
