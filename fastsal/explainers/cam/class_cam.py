"""CAM, the first of the family: channels weighed by the classifier's own weights."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap


class CAM(GradientMap):
    """Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016), equation 2.

    For networks whose layer is followed by average pooling and linear maps alone, whatever their modules are called:
    there the gradient's sum over a channel is the class's weight of it. Costs what Grad-CAM does.

    >>> maps = fastsal.CAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "activations of the last layer, weighted by the classifier"
    asks_affine = True

    def adjust(self, value: Tensor, gradients: Tensor, affine: bool) -> Tensor:
        if not affine:
            raise ValueError("layer: CAM needs one that only average pooling and linear maps follow; take GradCAM")
        return gradients

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.sum(tuple(range(2, gradients.dim())), keepdim=True)
