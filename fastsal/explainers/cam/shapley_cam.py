"""ShapleyCAM: Grad-CAM's weights to the second order."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap


class ShapleyCAM(GradientMap):
    """Cai, "CAMs as Shapley Value-based Explainers" (2025): w_c = mean of G - H A / 2, H the Hessian by the layer.

    Costs what Grad-CAM does, and two more backward passes from the output to the layer.

    >>> maps = fastsal.ShapleyCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "Grad-CAM less half the curvature"
    cost = "1 forward, 3 backward to the layer"
    exportable = True
    tail_graph = True

    def adjust(self, value: Tensor, gradients: Tensor, affine: bool) -> Tensor:
        if not gradients.requires_grad:
            return gradients  # no curvature
        fixed = value.detach()
        curved = []
        for gradient in gradients:
            graph = torch.is_grad_enabled() and value.requires_grad
            product = (gradient * fixed).sum()
            (second,) = torch.autograd.grad(product, value, retain_graph=True, create_graph=graph, allow_unused=True)
            curved.append(gradient if second is None else gradient - second / 2)
        return torch.stack(curved)

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients
