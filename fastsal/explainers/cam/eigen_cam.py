"""Eigen-CAM and Eigen-Grad-CAM: the first principal component of the activations."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap, OnePassMap


class EigenCAM(OnePassMap):
    """Muhammad and Yeasin, "Eigen-CAM" (IJCNN 2020), equations 3 and 4, of centred activations.

    Explains the layer, not a target: no gradient is taken. Costs one forward pass and one eigenvector per example.

    >>> maps = fastsal.EigenCAM(model, "last").attribute(images)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "first principal component of a layer; of no target"
    principal = True


class EigenGradCAM(GradientMap):
    """Eigen-CAM of gradient times activation, so of a target. Costs what Grad-CAM does, and one eigenvector each.

    >>> maps = fastsal.EigenGradCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "first principal component of gradient times activation"
    elementwise = principal = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients
