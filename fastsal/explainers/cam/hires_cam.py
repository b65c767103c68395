"""HiResCAM: gradient times activation, position by position."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap


class HiResCAM(GradientMap):
    """Draelos and Carin, "HiResCAM" (2020), section 3.2: sum over channels of G A.

    Where the layer is followed by a linear map alone, its sum is the score less the bias. Costs what Grad-CAM does.

    >>> maps = fastsal.HiResCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "gradient times activation, position by position"
    exportable = True
    elementwise = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients
