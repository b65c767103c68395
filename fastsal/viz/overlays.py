"""A map coloured, alone or over its image."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.explainers.cam.records import Summed
from fastsal.ops import cam
from fastsal.viz.colors import colormap


def _levels(maps: Tensor) -> Tensor:
    if not maps.is_floating_point():
        raise TypeError(f"map must be floating point, from 0 to 1 (see to_unit), got {maps.dtype}")
    if maps.dim() < 2:
        raise ValueError(f"map must be [..., H, W], got shape {tuple(maps.shape)}")
    return (maps.detach().float().nan_to_num(nan=0.0).clamp(0, 1) * 255 + 0.5).long()


def _colors(colors: Tensor | None, device: torch.device) -> Tensor:
    table = colormap() if colors is None else colors
    if table.dtype != torch.uint8 or table.shape != (256, 3):
        raise ValueError(f"colors must be uint8 [256, 3], got {table.dtype} {tuple(table.shape)}")
    return table.to(device)


def colorize(map: Tensor, colors: Tensor | None = None) -> Tensor:
    """map [..., H, W] from 0 to 1 -> uint8 [..., H, W, 3]; values beyond are clipped, NaN is shown as 0.

    colors: uint8 [256, 3], `colormap()` when None. Raises TypeError for a map of integers, ValueError for wrong shapes.
    """
    return _colors(colors, map.device)[_levels(map)]


def overlay(map: Tensor | Summed, image: Tensor, alpha: float = 0.5, colors: Tensor | None = None) -> Tensor:
    """image + alpha (coloured map - image): uint8 [..., H, W, 3]; where the map is NaN, the image alone.

    map: [..., H, W] from 0 to 1, values beyond are clipped; or what ``summed`` of a class activation map returned: then
    rectified, resized to the image, normalised, coloured and blended in one launch on a GPU, without a map. (A layer
    that looks at a part of the input, or mirrored, is laid there, in several launches.)
    image: uint8 [..., H, W, 3] on the same device.
    alpha: from 0 (the image) to 1 (the map). colors: uint8 [256, 3], `colormap()` when None.

    Raises TypeError for a map of integers, ValueError for an image of another shape or dtype or an alpha out of range.
    """
    if isinstance(map, Summed):
        if map.look.centres is None:
            return cam.overlay(map.activations, map.field, image, _colors(colors, image.device), alpha=alpha)
        map = map.over(image.shape[-3:-1])
    coloured = colorize(map, colors).float()
    if image.dtype != torch.uint8 or image.shape != coloured.shape:
        expected = tuple(coloured.shape)
        raise ValueError(f"image must be uint8 {expected} for this map, got {image.dtype} {tuple(image.shape)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    base = image.float()
    blended = (base + alpha * (coloured - base) + 0.5).clamp(0, 255).to(torch.uint8)
    return torch.where(map.isnan()[..., None], image, blended)
