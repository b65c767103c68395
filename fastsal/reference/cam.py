"""Grad-CAM's epilogue: channel weights, weighted sum, ReLU, resize to the input, min-max normalisation, overlay.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV 2017),
equations 1 and 2. The resize is linear per dimension with half-pixel centres and clamped ends.

NaN: the extremes of a map ignore NaN, so a NaN stays at the pixels that its source sample reaches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastsal.reference._numerics import accumulation_dtype, interpolate_linear

EPSILON = 1e-8
"""Added to the range in the normalisation, so that a constant map becomes 0."""


def map(activations: Tensor, gradients: Tensor, size: Sequence[int], relu: bool, normalize: bool) -> Tensor:
    """Maps [B, *size] of activations and gradients [B, C, *layer]."""
    return _wide_map(activations, gradients, size, relu, normalize).to(activations.dtype)


def _wide_map(activations: Tensor, gradients: Tensor, size: Sequence[int], relu: bool, normalize: bool) -> Tensor:
    dtype = accumulation_dtype(activations.dtype)
    spatial = list(range(2, activations.dim()))
    weights = gradients.to(dtype).mean(dim=spatial, keepdim=True)
    result = (weights * activations.to(dtype)).sum(dim=1)
    if relu:
        result = result.relu()
    for axis, extent in enumerate(size):
        result = interpolate_linear(result, axis + 1, extent)
    if normalize:
        result = _min_max(result)
    return result


def _min_max(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    missing = flat.isnan()
    low = flat.masked_fill(missing, torch.inf).amin(dim=1, keepdim=True)
    high = flat.masked_fill(missing, -torch.inf).amax(dim=1, keepdim=True)
    return ((flat - low) / (high - low + EPSILON)).clamp(0, 1).view_as(maps)


def overlay(activations: Tensor, gradients: Tensor, image: Tensor, colormap: Tensor, alpha: float) -> Tensor:
    """The normalised map coloured and blended over image [B, H, W, 3] (uint8); a NaN pixel shows the bare image."""
    maps = _wide_map(activations, gradients, image.shape[1:3], True, True).to(torch.float32)
    missing = maps.isnan()
    level = (maps.masked_fill(missing, 0) * 255 + 0.5).to(torch.int64)
    base = image.to(torch.float32)
    blended = base + alpha * (colormap.to(torch.float32)[level] - base) + 0.5
    return torch.where(missing[..., None], image, blended.clamp(0, 255).to(torch.uint8))
