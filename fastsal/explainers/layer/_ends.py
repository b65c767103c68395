"""The ends of a path between a layer's values, and where in these the examples are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal.engine.reading import begins_with, read
from fastsal.explainers.task import Task


class _Found(NamedTuple):
    """The tensors at layers in one pass, and how many tensors each use of a layer had."""

    tensors: list[Tensor]
    uses: list[tuple[int, ...]]


class Ends:
    """What passes at layers for the inputs and for the baselines.

    A pass of the inputs, one of the baselines and one of both in one batch show where the examples are: in the
    dimension that has twice the entries, whose halves are the same; it may have several for each example.

    Args:
        task: inputs, baselines and further arguments.
        layers: modules of its model.
        at_input: read the layers' inputs.
        constants: leave out values that do not depend on the inputs, whose attribution is zero.

    Attributes:
        uses: how many tensors each use of a layer has.
        by_example: whether :attr:`stops` and :attr:`starts` have the examples as dimension 0; else they have one entry.
        stops, starts: the layers' values for the inputs and for the baselines, as arguments of a path.

    Raises:
        ValueError: for layers that run otherwise for the baselines, or have values that are not floating point, or none
            that depends on the inputs.
    """

    def __init__(self, task: Task, layers: Sequence[nn.Module], at_input: bool, *, constants: bool) -> None:
        self._task, self._layers, self._at_input = task, layers, at_input
        found, begun = (self._read(inputs, task.additional) for inputs in (task.inputs, task.starts()))
        self.uses, self._tensors = found.uses, found.tensors
        shapes = [[tuple(tensor.shape) for tensor in each.tensors] for each in (begun, found)]
        if begun.uses != found.uses or shapes[0] != shapes[1]:
            raise ValueError(
                f"layer: its values have the shapes {shapes[0]} for the baselines and {shapes[1]} for the inputs; "
                "choose another layer"
            )
        for tensor in found.tensors:
            if not tensor.is_floating_point():
                kind = f"its value {tensor.dtype} of shape {tuple(tensor.shape)} is not floating point"
                raise ValueError(f"layer: {kind}; choose another layer")
        both = self._read_both()
        places = None if both is None else self._places(found.tensors, begun.tensors, both.tensors)
        self.by_example = places is not None and (constants or None not in places)
        self._places_of: Sequence[int | None] = places if self.by_example and places is not None else ()
        if both is not None and self.by_example:
            pairs = list(zip(both.tensors, self._places_of, strict=True))
            split = [self._by_example(tensor, place) for tensor, place in pairs if place is not None]
            self.stops = tuple(tensor[: task.examples] for tensor in split)
            self.starts = tuple(tensor[task.examples :] for tensor in split)
            if not split:
                raise ValueError("layer: its value does not depend on the inputs; choose another layer")
        else:
            self.stops, self.starts = (tuple(tensor[None] for tensor in each.tensors) for each in (found, begun))

    def values(self, rows: Iterable[Tensor]) -> list[Tensor]:
        """The layers' values of arguments like :attr:`stops`, for copies of them."""
        return self._as_values(rows, self._tensors)

    def attributions(self, rows: Iterable[Tensor]) -> list[Tensor]:
        """The same of attributions: what was left out has none."""
        return self._as_values(rows, [torch.zeros_like(tensor) for tensor in self._tensors])

    @property
    def counts(self) -> list[int]:
        """How many of :attr:`stops` are of each layer."""
        kept = iter([place is not None for place in self._places_of] or [True] * len(self._tensors))
        return [sum(next(kept) for _ in range(sum(sizes))) for sizes in self.uses]

    def _as_values(self, rows: Iterable[Tensor], others: list[Tensor]) -> list[Tensor]:
        if not self.by_example:
            return [row[0] for row in rows]
        each = iter(rows)
        return [
            other if place is None else next(each).flatten(0, 1).movedim(0, place)
            for place, other in zip(self._places_of, others, strict=True)
        ]

    def _by_example(self, tensor: Tensor, place: int) -> Tensor:
        """[2 B, parts of an example, ...] of a value for inputs and baselines."""
        parts: Tensor = tensor.movedim(place, 0).unflatten(0, (2 * self._task.examples, -1))
        return parts

    def _read(self, inputs: tuple[Tensor, ...], additional: tuple[Any, ...]) -> _Found:
        found = read(self._task.forward_func, self._layers, inputs, additional, at_input=self._at_input, every_use=True)
        return _Found([tensor for value in found.values for tensor in value], list(found.uses))

    def _read_both(self) -> _Found | None:
        """Of inputs and baselines in one batch; None where the model does not take them together."""
        task = self._task
        inputs = tuple(torch.cat(pair) for pair in zip(task.inputs, task.starts(), strict=True))
        try:
            found = self._read(inputs, task.repeated(task.additional, 2))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return None
        return found if found.uses == self.uses else None

    def _places(self, stops: list[Tensor], starts: list[Tensor], both: list[Tensor]) -> list[int | None] | None:
        """Each value's dimension of examples, None where it is the same for all; None where one is not known."""
        places: list[int | None] = []
        for stop, start, two in zip(stops, starts, both, strict=True):
            if two.shape == stop.shape and begins_with(two, stop) and begins_with(two, start):
                places.append(None)
                continue
            if two.dim() != stop.dim():
                return None
            place = next((d for d in range(stop.dim()) if two.shape[d] != stop.shape[d]), None)
            if place is None or two.shape[place] != 2 * stop.shape[place] or stop.shape[place] % self._task.examples:
                return None
            halves = two.chunk(2, place)
            if not all(begins_with(*pair) for pair in zip(halves, (stop, start), strict=True)):
                return None
            places.append(place)
        return places
