"""LayerCAM: each position weighed by its own positive gradient."""

from __future__ import annotations

from torch import Tensor

from fastsal.explainers.cam.one_pass import GradientMap


class LayerCAM(GradientMap):
    """Jiang et al., "LayerCAM" (IEEE TIP 2021), equations 4 to 6: sum over channels of relu(G) A.

    Costs what Grad-CAM does. Made for early layers too, where a mean gradient says little.

    >>> maps = fastsal.LayerCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "each position weighed by its own positive gradient"
    exportable = True
    elementwise = True

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.relu()
