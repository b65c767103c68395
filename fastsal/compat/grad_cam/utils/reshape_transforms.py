"""pytorch-grad-cam's reshape transforms: a layer's value as [B, C, h, w].

fastsal finds the grid of equal patches by itself; these are for programs that name it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """[B, C, height, width] of tokens [B, 1 + height * width, C], whose first one is of no place."""
    return swinT_reshape_transform(tensor[:, 1:], height, width)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:
    """[B, C, height, width] of tokens [B, height * width, C]."""
    grid: Tensor = tensor.unflatten(1, (height, width)).movedim(-1, 1)
    return grid


def fasterrcnn_reshape_transform(x: Mapping[str, Tensor]) -> Tensor:
    """[B, sum of C, h, w] of a feature pyramid's levels, absolute, in the size of the level "pool"."""
    size = x["pool"].shape[-2:]
    return torch.cat([F.interpolate(level.abs(), size, mode="bilinear") for level in x.values()], 1)
