"""A layer's map in the size of what it looks at, where its positions look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.engine.reading import Geometry
from fastsal.engine.reading.layers import map_axes

Centres = Sequence[tuple[float, float] | None]
"""(offset, stride) of a layer's positions along each dimension, in an input's elements; None along one of a single."""


class Placement(NamedTuple):
    """Where a layer's map lies.

    Attributes:
        centres: of its positions; None where equal parts of the input are meant.
        extents: of the input along the map's dimensions.
        axes: the input's dimensions that these are.
    """

    centres: Centres | None = None
    extents: Sequence[int] = ()
    axes: Sequence[int] = ()


def placement_of(geometry: Geometry, looked_at: Tensor) -> Placement:
    """Where in an input the map of a layer lies.

    Positions within half a step of where equal parts of the input would put them are meant to be there.
    """
    axes = map_axes(geometry, looked_at.dim())
    extents = tuple(looked_at.shape[axis] for axis in axes)
    if geometry.tiles():
        return Placement(None, extents, axes)
    looks = dict(zip(geometry.axes, zip(geometry.offset, geometry.stride, strict=True), strict=True))
    return Placement([looks.get(axis) for axis in axes], extents, axes)


def placed(maps: Tensor, centres: Centres, extents: Sequence[int], size: Sequence[int] | None = None) -> Tensor:
    """Maps [N, *size] of maps [N, *layer], linearly between where the positions look; beyond the outermost as there.

    Args:
        maps: at least float32.
        centres: of the positions, in the input's elements.
        extents: of the input.
        size: of a picture of the input, which may be another; None takes the input's.
    """
    for place, (look, extent) in enumerate(zip(centres, extents, strict=True)):
        dim, count = 1 + place, maps.shape[1 + place]
        offset, stride = look or (0.0, 1.0)
        wanted = extent if size is None else size[place]
        elements = torch.arange(wanted, device=maps.device)
        where = elements if wanted == extent else (elements + 0.5) * (extent / wanted) - 0.5
        at = ((where - offset) / stride).clamp(0, count - 1).to(maps.dtype)
        low = at.floor().long().clamp_max(max(count - 2, 0))
        high = (low + 1).clamp_max(count - 1)
        weight = (at - low).view(-1, *[1] * (maps.dim() - dim - 1))
        maps = torch.lerp(maps.index_select(dim, low), maps.index_select(dim, high), weight)
    return maps
