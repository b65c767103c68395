"""pytorch-grad-cam's helpers under their own module names."""

from fastsal.compat.grad_cam.utils.image import deprocess_image

__all__ = ["deprocess_image"]
