"""One pass of a model with every call of attention kept, and where its tokens are."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsal.engine.reading.geometry import Lineage
from fastsal.engine.run import run, scratch
from fastsal.explainers.attending import Attended, AttentionTap, layout_of
from fastsal.explainers.attention._keys import Keys, keys_of
from fastsal.explainers.task import Task


class Taken(NamedTuple):
    """What a pass left.

    Attributes:
        output: the model's, in its graph.
        tap: the calls of attention.
        lineage: of their tensors.
        dimensions: of the first input.
    """

    output: Any
    tap: AttentionTap
    lineage: Lineage
    dimensions: int

    def located(self) -> list[tuple[Attended, Keys | None]]:
        """Every call of attention, with the places of its keys: None where they are none of the whole first input."""
        return [(each, keys_of(layout_of(each, self.lineage), self.dimensions)) for each in self.tap.found]

    def crossed(self) -> list[tuple[Attended, Keys]]:
        """The calls whose keys are places of the whole first input, and whose queries are something else."""
        found = [(each, keys_of(layout_of(each, self.lineage), self.dimensions, True)) for each in self.tap.found]
        return [(each, keys) for each, keys in found if keys is not None]


def attended(task: Task, graph: bool = True) -> Taken:
    """One pass over the inputs as they are; call inside the task's context, with gradients enabled for a graph."""
    tap, lineage = AttentionTap(task.examples, graph=graph), Lineage()
    inputs = tuple(scratch(tensor) for tensor in task.inputs)
    if graph:
        # A frozen model has no graph of its own, and what it computes again in a checkpoint must have the same.
        inputs = tuple(each.requires_grad_().clone() if each.is_floating_point() else each for each in inputs)
    lineage.begin(inputs)
    with tap, lineage:
        output = run(task.forward_func, inputs, tuple(map(scratch, task.additional)))
    task.note(output)
    return Taken(output, tap, lineage, task.inputs[0].dim())
