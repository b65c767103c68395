"""Where the positions of an explainer's layers are, and how a layer's value becomes [N, C, *spatial]."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastsal._torch import len_torch_dispatch_stack
from fastsal.engine.reading import Geometry, Reading, Unsettled, geometry_of
from fastsal.engine.reading.geometry import Kind, Lineage, for_another_number, kind_of, recall, settled, version
from fastsal.engine.reading.layers import map_axes, told_apart
from fastsal.explainers.cam.placing import Placement, placement_of
from fastsal.explainers.task import Task

logger = logging.getLogger("fastsal")
ReshapeTransform = Callable[[Tensor], Tensor]
Stated = ReshapeTransform | Geometry | Sequence[ReshapeTransform | Geometry | None] | None
"""What is said of the layers by hand: of all, or of each in a list."""


class View(NamedTuple):
    """A layer as it looks at one of the inputs.

    Attributes:
        layer: its number.
        use: which of its runs does; -1 is the last, which then stands for all.
        geometry: where its positions are; None where a function arranges its value.
    """

    layer: int
    use: int
    geometry: Geometry | None

    def arrange(self, value: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """[N, C, *spatial] of a layer's value that has a geometry."""
        assert self.geometry is not None
        arranged = self.geometry.arrange(value)
        dimensions = inputs[self.geometry.input].dim()
        if len(self.geometry.axes) == dimensions - 2:
            return arranged
        for place, axis in enumerate(map_axes(self.geometry, dimensions)):
            if axis not in self.geometry.axes:  # all along it is one position
                arranged = arranged.unsqueeze(2 + place)
        return arranged

    def placement(self, inputs: tuple[Tensor, ...]) -> Placement:
        """Of a map in the input that is looked at; in the first where that is not known."""
        if self.geometry is None:
            return Placement(None, tuple(inputs[0].shape[2:]), range(2, inputs[0].dim()))
        return placement_of(self.geometry, inputs[self.geometry.input])


class Places:
    """What is known of an explainer's layers, by their number and the inputs' shapes.

    Args:
        stated: what arranges every layer, or where its positions are; in a list one for each layer, None where it is to
            be found out.
    """

    def __init__(self, stated: Stated) -> None:
        self._stated = stated
        self._known: dict[tuple[int, Kind], tuple[Geometry, ...]] = {}
        """Of a layer's last run, or of each where they look at different inputs."""
        self._views: dict[tuple[int, Kind], dict[int, list[View]]] = {}
        self._version = 0
        """Of the model when these were found."""

    def lineage(self, layers: Sequence[nn.Module], task: Task) -> Lineage | None:
        """What has to note a pass of the layers; None where their geometry is known, or need not be.

        Raises:
            Unsettled: where it is known that one has none.
        """
        if self._stated is not None and not isinstance(self._stated, (list, tuple)):
            return None
        kind, now = kind_of(task.inputs), version(task.model)
        if now != self._version:
            self._known.clear()
            self._views.clear()
            self._version = now
        for index, layer in enumerate(layers):
            if (index, kind) in self._known or self._said(index) is not None:
                continue
            found: Sequence[Geometry] | Geometry | Unsettled | None = recall(task.model, layer, -1, kind)
            if found is None and len_torch_dispatch_stack():
                # A trace, of any number of examples, of a call that has been made.
                other = for_another_number(kind)
                found = self._known.get((index, other)) or recall(task.model, layer, -1, other)
            if found is None:
                return Lineage()
            if isinstance(found, Unsettled):
                raise found.again()
            self._known[index, kind] = (found,) if isinstance(found, Geometry) else tuple(found)
        return None

    def learn(
        self, layers: Sequence[nn.Module], names: Sequence[str | None], task: Task, found: Reading, lineage: Lineage
    ) -> None:
        """What a pass has shown.

        Raises:
            Unsettled: for a layer without a geometry.
        """
        kind = kind_of(task.inputs)
        self._views.clear()
        for index, (layer, noted) in enumerate(zip(layers, found.noted, strict=True)):
            if self._said(index) is not None or (index, kind) in self._known:
                continue
            if noted is None or any(size != 1 for size in found.uses[index]):
                continue  # of several tensors, which is refused where the values are read
            name = names[index] if index < len(names) else None
            geometry = settled(task.model, layer, name, noted, lineage, task.inputs, task.additional)
            self._known[index, kind] = (geometry,)
            without = set(geometry.also) - {other.input for other in geometry.others}
            if without:
                logger.warning(
                    "layer %s depends on inputs %s too, but has no positions in them: there is no map of these",
                    name or type(layer).__name__,
                    ", ".join(map(str, sorted(without))),
                )

    def learn_runs(self, layers: Sequence[nn.Module], task: Task, uses: Sequence[tuple[int, ...]]) -> bool:
        """Whether the runs of each layer that runs several times look at different inputs, each at its own."""
        kind = kind_of(task.inputs)
        for index, (layer, sizes) in enumerate(zip(layers, uses, strict=True)):
            if len(sizes) < 2:
                continue
            if self._said(index) is not None:
                return False
            try:
                each = [geometry_of(task.model, layer, task.inputs, task.additional, run=n) for n in range(len(sizes))]
            except ValueError:  # of one of them nothing is known
                return False
            if not told_apart(each):
                return False
            self._known[index, kind] = tuple(each)
        self._views.clear()
        return True

    def by_run(self, layers: int, inputs: tuple[Any, ...]) -> bool:
        """Whether one of the layers is known to look at another input in each of its runs."""
        kind = kind_of(inputs)
        return any(len(self._known.get((index, kind), ())) > 1 for index in range(layers))

    def views(self, layers: int, inputs: tuple[Any, ...]) -> dict[int, list[View]]:
        """For each input that the layers look at how they do, after a pass over such inputs; the first input first."""
        kind = kind_of(inputs)
        known = self._views.get((layers, kind))
        if known is not None:
            return known
        found: dict[int, list[View]] = {}
        for index in range(layers):
            said = self._said(index)
            if said is not None and not isinstance(said, Geometry):
                found.setdefault(0, []).append(View(index, -1, None))
                continue
            runs = self._known[index, kind] if said is None else (completed(said, inputs),)
            for run, geometry in enumerate(runs):
                for each in (geometry, *geometry.others):
                    found.setdefault(each.input, []).append(View(index, run if len(runs) > 1 else -1, each))
        known = self._views[layers, kind] = dict(sorted(found.items()))
        return known

    def _said(self, index: int) -> ReshapeTransform | Geometry | None:
        """What is said of one layer by hand."""
        if self._stated is None or callable(self._stated) or isinstance(self._stated, Geometry):
            return self._stated
        if index >= len(self._stated):
            told = f"{len(self._stated)} given, but there are more layers"
            raise ValueError(f"reshape_transform: {told}; one each is needed")
        return self._stated[index]

    def arrange(self, view: View, value: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """[N, C, *spatial] of a layer's value."""
        said = self._said(view.layer)
        if view.geometry is not None:
            if said is not None:
                view.geometry.check(value)
            return view.arrange(value, inputs)
        assert callable(said)
        arranged = said(value)
        if not isinstance(arranged, Tensor) or arranged.dim() < 3 or arranged.shape[0] != value.shape[0]:
            raise ValueError("reshape_transform: what it returned is no tensor [B, C, *spatial]")
        return arranged


def completed(stated: Geometry, inputs: tuple[Any, ...]) -> Geometry:
    """A geometry as it was stated, for these inputs; where no offset and stride are said equal parts are meant.

    Raises:
        ValueError: for one of an input or dimensions that there are not.
    """
    if not 0 <= stated.input < len(inputs):
        raise ValueError(f"reshape_transform: it is of input {stated.input}, but there are {len(inputs)}")
    shape = tuple(inputs[stated.input].shape)
    if not all(0 < axis < len(shape) for axis in stated.axes):
        raise ValueError(f"reshape_transform: its axes {stated.axes} are not all dimensions of an input {shape}")
    if not len(stated.axes) == len(stated.grid) == len(stated.positions):
        raise ValueError("reshape_transform: axes, grid and positions of a Geometry have one entry for each axis")
    extents = tuple(shape[axis] for axis in stated.axes)
    stride = stated.stride or tuple(extent / count for extent, count in zip(extents, stated.grid, strict=True))
    offset = stated.offset or tuple((abs(step) - 1) / 2 for step in stride)
    if len(stride) != len(stated.axes) or len(offset) != len(stated.axes):
        raise ValueError("reshape_transform: offset and stride of a Geometry have one entry for each axis, or none")
    return replace(stated, extents=extents, stride=stride, offset=offset)
