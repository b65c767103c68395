"""RefineCAM: where several layers agree."""

from __future__ import annotations

from fastsal.explainers.cam.grad_cam_plus_plus import GradCAMPlusPlus


class RefineCAM(GradCAMPlusPlus):
    """Grad-CAM++ of several layers, their normalised maps multiplied: a late layer's place, an early one's edges.

    As pytorch-grad-cam and torchcam have it; name the layers as a list. Costs what Grad-CAM does, from the first layer.
    """

    fusion = "product"
