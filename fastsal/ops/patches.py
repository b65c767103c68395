"""Patches of a cached map with altered parts pasted in. Meaning: :mod:`fastsal.reference.patches`.

Bytes: ``gather`` writes its result and reads as much, from the patch or from the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.ops._arguments import per_dimension
from fastsal.ops._define import Op
from fastsal.ops._vmap import one_by_one
from fastsal.reference import patches as reference


def _empty(cached: Tensor, starts: Tensor, size: Sequence[int], *rest: Any) -> Tensor:
    shape = (starts.shape[0], *size, cached.shape[1])
    return torch.empty(shape, dtype=cached.dtype, device=cached.device).permute(0, 3, 1, 2)


def _vmap(info: Any, dims: tuple[Any, ...], *args: Any) -> Any:
    return one_by_one(_gather.overload, info, dims, args)


_gather = Op(
    "patches_gather(Tensor cached, Tensor starts, int[] size, Tensor? patch, Tensor? origins, float fill) -> Tensor",
    reference=reference.gather,
    kernel="patches.gather",
    empty=_empty,
    vmap=_vmap,
)


def gather(
    cached: Tensor,
    starts: Tensor,
    size: int | Sequence[int],
    *,
    patch: Tensor | None = None,
    origins: Tensor | None = None,
    fill: float = 0.0,
) -> Tensor:
    """Regions of a map, each with its own altered part: crop, halo, border padding and paste in one copy.

    Args:
        cached: the map, [1, C, H, W], any dtype; channels-last is read without a copy.
        starts: [B, 2], int64: top and left of each region; it may reach over the map's edges.
        size: height and width of the regions.
        patch: [B, C, h, w] in the map's dtype: what replaces the map for each region.
        origins: [B, 2], int64: top and left of each patch, with ``patch``.
        fill: what lies outside of the map.

    Returns:
        [B, C, *size], channels-last.

    Raises:
        ValueError: for arguments outside of the above.
    """
    if cached.dim() != 4 or cached.shape[0] != 1:
        raise ValueError(f"cached: shape {tuple(cached.shape)} is not [1, C, H, W]")
    if starts.dim() != 2:
        raise ValueError(f"starts: shape {tuple(starts.shape)} is not [B, 2]")
    count = starts.shape[0]
    for name, value in (("starts", starts), ("origins", origins)):
        if value is not None and (tuple(value.shape) != (count, 2) or value.dtype != torch.int64):
            raise ValueError(f"{name}: {value.dtype} of shape {tuple(value.shape)} is not int64 of shape [{count}, 2]")
    if (patch is None) != (origins is None):
        raise ValueError("origins: needed with patch, and only with it")
    if patch is not None and (patch.dim() != 4 or tuple(patch.shape[:2]) != (count, cached.shape[1])):
        raise ValueError(f"patch: shape {tuple(patch.shape)} is not [{count}, {cached.shape[1]}, h, w]")
    if patch is not None and patch.dtype != cached.dtype:
        raise ValueError(f"patch: {patch.dtype} is not {cached.dtype}, that of cached")
    for name, tensor in (("starts", starts), ("patch", patch), ("origins", origins)):
        if tensor is not None and tensor.device != cached.device:
            raise ValueError(f"{name}: it is on {tensor.device}, cached on {cached.device}")
    return _gather(cached, starts, per_dimension("size", size, 2), patch, origins, float(fill))
