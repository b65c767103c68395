"""What a call of ``attribute`` explains: its arguments, parsed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import Rows, scratch
from fastsal.explainers.arguments import (
    Baselines,
    Given,
    Inputs,
    as_arguments,
    as_baselines,
    at_least_one,
    baseline_inputs,
    with_room,
)
from fastsal.explainers.scores import Target, could_be_per_example


class Explained:
    """Inputs, target, baselines and extra arguments of one call.

    Arguments and attributes are those of :class:`fastsal.Task`, which makes the passes.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        baselines: Baselines = None,
        *,
        per_call: int | None = None,
        rows_per_call: int | None = None,
        named: str = "perturbations_per_eval",
        create_graph: bool = False,
        floating: bool = False,
        tensors_only: bool = True,
        fractions: bool = False,
        allow_unused: bool = False,
        show_progress: bool = False,
        name: str = "",
    ) -> None:
        self.model, self.given = forward_func, Given(inputs, tensors_only)
        self.forward_func = self.given.callable_with(forward_func)
        tensors = self.given.tensors
        if floating:
            tensors = tuple(t if t.is_floating_point() else t.to(torch.get_default_dtype()) for t in tensors)
        if fractions:
            tensors = with_room(self.given.each(baselines), tensors)
        self.inputs = tensors
        if not create_graph:
            self.inputs = tuple(scratch(t) if t.is_inference() else t.detach() for t in tensors)
        self.baselines = as_baselines(self.given.each(baselines), self.inputs)
        self.ambiguous = as_arguments(additional_forward_args)
        self.additional = (*self.given.others, *self.ambiguous)
        self.create_graph, self.show_progress, self.name = create_graph, show_progress, name
        self.per_call = None if per_call is None else at_least_one(named, per_call)
        given = per_call if rows_per_call is None else rows_per_call
        self._given = "" if given is None else f"{named}={given}"
        if rows_per_call is not None:
            self.per_call = max(1, at_least_one(named, rows_per_call) // max(1, self.examples))
        self.copies, self.asks, self.allows_unused = 1, False, allow_unused
        self.parts: list[tuple[str, int]] | None = None
        self.looked_at: Rows | None = None
        self.together = 2
        self.rows_ahead = 0
        self._target, self._output = target, None
        self._read: tuple[Target, Target] | None = None

    @property
    def examples(self) -> int:
        """Number of examples B."""
        return self.inputs[0].shape[0] if self.inputs else 1

    @property
    def device(self) -> torch.device:
        """Of the first input."""
        return self.inputs[0].device if self.inputs else torch.device("cpu")

    @property
    def wanted(self) -> Target:
        """What is explained as it was asked for, whether or not a function has chosen yet."""
        return self._target

    def example(self, row: int) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """(inputs, extra arguments) of one example alone: its entry of whatever has as many as there are examples."""
        inputs, additional = (
            tuple(value[row : row + 1] if could_be_per_example((value,), self.examples) else value for value in values)
            for values in (self.inputs, self.additional)
        )
        return inputs, additional

    def starts(self) -> tuple[Tensor, ...]:
        """Baselines as inputs of the model."""
        return baseline_inputs(self.baselines, self.inputs)

    def result(self, results: Sequence[Any]) -> Any:
        """One result for each input, in the form of the inputs."""
        return self.given.result(results)
