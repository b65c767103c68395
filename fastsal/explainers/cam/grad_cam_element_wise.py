"""Grad-CAM with each product of gradient and activation rectified."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap


class GradCAMElementWise(GradientMap):
    """Pillai and Pirsiavash, "Explainable Models with Consistent Interpretations" (AAAI 2021): sum of relu(G A).

    Costs what Grad-CAM does.

    >>> maps = fastsal.GradCAMElementWise(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "gradient times activation, each product rectified"
    exportable = True
    elementwise = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.where(gradients * activations > 0, 0)
