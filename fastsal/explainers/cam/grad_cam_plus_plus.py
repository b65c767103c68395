"""Grad-CAM++: positive gradients, weighed by how much each position counts."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap
from fastsal.ops import accumulation_dtype

EPSILON = 1e-6


class GradCAMPlusPlus(GradientMap):
    """Chattopadhay et al., "Grad-CAM++" (WACV 2018), equations 11 and 19, for the score exp(S).

    alpha = G^2 / (2 G^2 + sum(A) G^3), w_c = sum of alpha relu(G). The denominator has 1e-6 more (pytorch-grad-cam's):
    gradients below about 1e-3, as those of a mean over many positions are, count for less than by the equation, and a
    score times a number has another map. Costs what Grad-CAM does.

    >>> maps = fastsal.GradCAMPlusPlus(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "Grad-CAM with positive gradients, weighed by how much each position counts"
    exportable = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        dtype = accumulation_dtype(activations.dtype)
        g = gradients.to(dtype)
        return plus_plus_weights(activations, g.relu(), g**2, g**3)


def plus_plus_weights(activations: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Channel weights [N, C, 1, ...] from relu of the first derivative, and from the second and third."""
    spatial = tuple(range(2, activations.dim()))
    total = activations.to(second.dtype).sum(spatial, keepdim=True)
    denominator = 2 * second + total * third + EPSILON
    alpha = (second / denominator).where(second != 0, 0)
    return (alpha * first).sum(spatial, keepdim=True)
