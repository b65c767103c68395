"""What passes between the parts of a class activation map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastsal.explainers.call import Call
from fastsal.explainers.cam._places import View
from fastsal.explainers.cam.placing import Placement, placed
from fastsal.explainers.task import Task
from fastsal.ops import accumulation_dtype, cam


class LayerValues(NamedTuple):
    """What one pass left of each layer.

    Attributes:
        activations: [N, C, *spatial] per layer.
        gradients: of the scores by them, in their shape; none where the method takes none.
        targets: how many targets the rows are of, targets first; None where one was given as such.
        affine: whether the scores are known to be an affine function of the one layer, all of which is in the
            activations; where the method asks.
        input: which of the inputs the maps are of.
        views: how each layer looks at it.
    """

    activations: list[Tensor]
    gradients: list[Tensor]
    targets: int | None
    affine: bool
    input: int = 0
    views: Sequence[View] = ()


class CamReading(NamedTuple):
    """What a method made of the model.

    Attributes:
        output: the model's, detached.
        activations: [N, C, *spatial] per layer.
        fields: what weighs them, in their shape or [N, C, 1, ...]: a channel's weight is the mean of its field, unless
            each position has one of its own; None where nothing weighs.
        targets: how many targets the rows are of, targets first; None where one was given as such.
        looks: where in the input that the maps are of each layer's map lies.
    """

    output: Any
    activations: list[Tensor]
    fields: list[Tensor | None]
    targets: int | None = None
    looks: Sequence[Placement] = ()


class Summed(NamedTuple):
    """What :func:`fastsal.ops.cam.map` and :func:`fastsal.viz.overlay` make a map of, in one launch on a GPU.

    Attributes:
        activations, field: arguments of :func:`fastsal.ops.cam.map`.
        look: where in the input the map lies.
    """

    activations: Tensor
    field: Tensor
    look: Placement = Placement()

    def over(self, size: Sequence[int]) -> Tensor:
        """The map [N, *size] of a picture of the input: rectified, where the layer looks, then from 0 to 1."""
        if self.look.centres is None:
            return cam.map(self.activations, self.field, size)
        small = cam.map(self.activations, self.field, normalize=False)
        wide = small.to(accumulation_dtype(small.dtype))
        return cam.finish(placed(wide, self.look.centres, self.look.extents, size), relu=False)


class Rendering(NamedTuple):
    """How maps are made of what was read; the arguments of ``attribute`` of these names."""

    relu_attributions: bool
    upsample: bool
    normalize: bool
    fuse: str | None
    eigen_smooth: bool
    aug_smooth: bool


@dataclasses.dataclass(frozen=True)
class MapCall(Call[Any]):
    """What a class activation map's ``attribute`` describes.

    Attributes:
        read: the model's part of it alone, for the first input that the layers look at.
    """

    read: Callable[[], CamReading] = dataclasses.field(kw_only=True)


Weigh = Callable[[Task, LayerValues], "list[Tensor | None]"]
