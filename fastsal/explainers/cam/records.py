"""What passes between the parts of a class activation map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from fastsal.explainers.call import Call
from fastsal.explainers.task import Task


class LayerValues(NamedTuple):
    """What one pass left of each layer.

    Attributes:
        activations: [N, C, *spatial] per layer.
        gradients: of the scores by them, in their shape; none where the method takes none.
        targets: how many targets the rows are of, targets first; None where one was given as such.
        affine: whether the scores are known to be an affine function of the one layer, all of which is in the
            activations; where the method asks.
    """

    activations: list[Tensor]
    gradients: list[Tensor]
    targets: int | None
    affine: bool


class CamReading(NamedTuple):
    """What a method made of the model.

    Attributes:
        output: the model's, detached.
        activations: [N, C, *spatial] per layer.
        fields: what weighs them, in their shape or [N, C, 1, ...]: a channel's weight is the mean of its field, unless
            each position has one of its own; None where nothing weighs.
        targets: how many targets the rows are of, targets first; None where one was given as such.
    """

    output: Any
    activations: list[Tensor]
    fields: list[Tensor | None]
    targets: int | None = None


class Summed(NamedTuple):
    """What :func:`fastsal.ops.cam.map` and :func:`fastsal.viz.overlay` make a map of, in one launch on a GPU."""

    activations: Tensor
    field: Tensor


class Rendering(NamedTuple):
    """How maps are made of what was read; the arguments of ``attribute`` of these names."""

    relu_attributions: bool
    upsample: bool
    normalize: bool
    fuse: str | None
    eigen_smooth: bool
    aug_smooth: bool


@dataclasses.dataclass(frozen=True)
class MapCall(Call[Tensor]):
    """What a class activation map's ``attribute`` describes.

    Attributes:
        read: the model's part of it alone.
    """

    read: Callable[[], CamReading] = dataclasses.field(kw_only=True)


Weigh = Callable[[Task, LayerValues], "list[Tensor | None]"]
