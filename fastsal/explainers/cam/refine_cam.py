"""RefineCAM: where several layers agree."""

from __future__ import annotations

from fastsal.explainers.cam.grad_cam_plus_plus import GradCAMPlusPlus


class RefineCAM(GradCAMPlusPlus):
    """Grad-CAM++ of several layers, their normalised maps multiplied: a late layer's place, an early one's edges.

    As pytorch-grad-cam and torchcam have it; name the layers as a list. Costs what Grad-CAM does, from the first layer.

    >>> maps = fastsal.RefineCAM(model, ["stem", "last"]).attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    summary = "Grad-CAM++ of several layers, multiplied"
    exportable = False
    fusion = "product"
