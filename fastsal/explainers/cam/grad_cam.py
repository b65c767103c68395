"""Grad-CAM: channels weighed by their mean gradient."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap


class GradCAM(GradientMap):
    """Selvaraju et al., "Grad-CAM" (ICCV 2017), equations 1 and 2: w_c = mean of G_c; sum of w_c A_c.

    Costs one forward pass, and a backward pass from the output to the layer.

    >>> maps = fastsal.GradCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "activations of a layer, weighted by the target's mean gradient"
    exportable = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients
