"""Where the positions of an explainer's layers are, and how a layer's value becomes [N, C, *spatial]."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import len_torch_dispatch_stack
from fastsal.engine.reading import Geometry, Reading, Unsettled
from fastsal.engine.reading.geometry import Kind, Lineage, for_another_number, kind_of, recall, settled
from fastsal.engine.reading.layers import map_axes
from fastsal.explainers.task import Task

logger = logging.getLogger("fastsal")
ReshapeTransform = Callable[[Tensor], Tensor]


class Places:
    """What is known of an explainer's layers, by their number and the inputs' shapes.

    Args:
        reshape_transform: what arranges every layer in the place of its geometry.
    """

    def __init__(self, reshape_transform: ReshapeTransform | None) -> None:
        self._transform = reshape_transform
        self._known: dict[tuple[int, Kind], Geometry] = {}

    def lineage(self, layers: Sequence[nn.Module], task: Task) -> Lineage | None:
        """What has to note a pass of the layers; None where their geometry is known, or need not be.

        Raises:
            Unsettled: where it is known that one has none.
        """
        if self._transform is not None:
            return None
        kind = kind_of(task.inputs)
        for index, layer in enumerate(layers):
            if (index, kind) in self._known:
                continue
            found = recall(task.model, layer, -1, kind)
            if found is None and len_torch_dispatch_stack():
                # A trace, of any number of examples, of a call that has been made.
                other = for_another_number(kind)
                found = self._known.get((index, other)) or recall(task.model, layer, -1, other)
            if found is None:
                return Lineage()
            if isinstance(found, Unsettled):
                raise found.again()
            self._known[index, kind] = found
        return None

    def learn(
        self, layers: Sequence[nn.Module], names: Sequence[str | None], task: Task, found: Reading, lineage: Lineage
    ) -> None:
        """What a pass has shown.

        Raises:
            Unsettled: for a layer without a geometry.
        """
        kind = kind_of(task.inputs)
        for index, (layer, noted) in enumerate(zip(layers, found.noted, strict=True)):
            if noted is None or len(found.values[index]) != 1:
                continue  # which is refused where the values are read
            name = names[index] if index < len(names) else None
            geometry = settled(task.model, layer, name, noted, lineage, task.inputs, task.additional)
            self._known[index, kind] = geometry
            if geometry.also:
                logger.warning(
                    "layer %s looks at inputs %s; its map is of input %d",
                    name or type(layer).__name__,
                    ", ".join(map(str, (geometry.input, *geometry.also))),
                    geometry.input,
                )

    def size(self, index: int, inputs: tuple[Tensor, ...]) -> list[int]:
        """Of a layer's map in the input that it looks at; of the first where that is not known."""
        geometry = self._known.get((index, kind_of(inputs)))
        if geometry is None:
            return list(inputs[0].shape[2:])
        looked_at = inputs[geometry.input]
        return [looked_at.shape[axis] for axis in map_axes(geometry, looked_at.dim())]

    def centres(self, index: int, inputs: tuple[Tensor, ...]) -> list[tuple[float, float] | None] | None:
        """(offset, stride) along each dimension of a layer's map, None along one of a single position.

        None where its positions are within half a step of where equal parts of the input would put them.
        """
        geometry = self._known.get((index, kind_of(inputs)))
        if geometry is None or geometry.tiles():
            return None
        looks = dict(zip(geometry.axes, zip(geometry.offset, geometry.stride, strict=True), strict=True))
        return [looks.get(axis) for axis in map_axes(geometry, inputs[geometry.input].dim())]

    def geometry(self, index: int, inputs: tuple[Any, ...]) -> Geometry | None:
        """Of a layer, for inputs of these shapes, after a pass over such; None where a function arranges it."""
        return None if self._transform is not None else self._known[index, kind_of(inputs)]

    def arrange(self, index: int, value: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """[N, C, *spatial] of a layer's value."""
        geometry = self.geometry(index, inputs)
        if geometry is None:
            assert self._transform is not None
            arranged = self._transform(value)
            if not isinstance(arranged, Tensor) or arranged.dim() < 3 or arranged.shape[0] != value.shape[0]:
                raise ValueError("reshape_transform: what it returned is no tensor [B, C, *spatial]")
            return arranged
        arranged = geometry.arrange(value)
        if len(geometry.axes) == inputs[geometry.input].dim() - 2:
            return arranged
        for place, axis in enumerate(map_axes(geometry, inputs[geometry.input].dim())):
            if axis not in geometry.axes:  # all along it is one position
                arranged = arranged.unsqueeze(2 + place)
        return arranged


def placed(maps: Tensor, centres: Sequence[tuple[float, float] | None], size: Sequence[int]) -> Tensor:
    """Maps [N, *layer] in the input's size, linearly between where the positions look; beyond the outermost as there.

    Args:
        maps: at least float32.
        centres: (offset, stride) of the positions along each dimension, in the input's elements; None of a single one.
        size: of the input.
    """
    for place, (look, extent) in enumerate(zip(centres, size, strict=True)):
        dim, count = 1 + place, maps.shape[1 + place]
        offset, stride = look or (0.0, 1.0)
        at = ((torch.arange(extent, device=maps.device) - offset) / stride).clamp(0, count - 1).to(maps.dtype)
        low = at.floor().long().clamp_max(max(count - 2, 0))
        high = (low + 1).clamp_max(count - 1)
        weight = (at - low).view(-1, *[1] * (maps.dim() - dim - 1))
        maps = torch.lerp(maps.index_select(dim, low), maps.index_select(dim, high), weight)
    return maps
