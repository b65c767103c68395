"""pytorch-grad-cam's way with maps: min-max at the layer's resolution, then resized, in volumes by splines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.compat.grad_cam._optional import optional

EPSILON = 1e-7
"""Added to the range, so that a constant map becomes 0."""


def min_max(maps: Tensor) -> Tensor:
    """Maps [N, *spatial], each from 0 to 1."""
    flat = maps.flatten(1)
    flat = flat - flat.amin(1, keepdim=True)
    return (flat / (EPSILON + flat.amax(1, keepdim=True))).view_as(maps)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [N, *size] in float32 of maps [N, *spatial].

    Images are resized as OpenCV's INTER_LINEAR: half-pixel centres, no smoothing. Volumes are resized by SciPy's cubic
    spline from corner to corner, on the CPU; it may leave the range of its values.

    Raises:
        ValueError: for maps that are neither.
        ImportError: for volumes without SciPy.
    """
    maps, size = maps.float(), tuple(size)
    if maps.dim() == 3:
        return maps if maps.shape[1:] == size else F.interpolate(maps[:, None], size, mode="bilinear")[:, 0]
    if maps.dim() != 4:
        raise ValueError(f"maps: shape {tuple(maps.shape)} is neither [N, H, W] nor [N, D, H, W]")
    zoom = optional("scipy.ndimage", "resizes the maps of volumes").zoom
    factors = [after / before for after, before in zip(size, maps.shape[1:], strict=True)]
    volumes = [zoom(volume, factors) for volume in maps.cpu().numpy()]
    return torch.from_numpy(np.stack(volumes)).to(maps.device)


def scaled(maps: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Maps [N, *spatial] from 0 to 1, then in another size; float32."""
    maps = min_max(maps)
    return maps.float() if size is None else resized(maps, size)
