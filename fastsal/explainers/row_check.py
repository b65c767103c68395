"""What the rows of a batch have to do with each other, for the inputs and arguments of a call."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastsal._torch import len_torch_dispatch_stack
from fastsal.engine.run import Rows, evaluation, host_may_wait, output_tensors, rows_of, run, scratch
from fastsal.explainers.outputs import main_output
from fastsal.explainers.scores import one_score_each, scores_examples, tile_target

if TYPE_CHECKING:
    from fastsal.explainers.task import Task

SMALL = 64
"""Elements of an extra tensor that are told apart by their values."""


def found_rows(task: Task) -> Rows:
    """What is known of the model's rows, or found by a few passes; nothing where a graph is being made, or where the
    model says by ``rows_apart`` that it scores each by itself.

    A function made for one call says by ``rows_as`` for which callable it is remembered, and by ``rows_named`` what it
    is of it.
    """
    traced = len_torch_dispatch_stack() > 0 or torch.compiler.is_compiling()
    if getattr(task.model, "rows_apart", False):
        return Rows()
    if traced or not task.inputs or any(tensor.is_meta for tensor in task.inputs):
        return Rows()
    by_parts = scores_examples(task.wanted)
    kind = str(type(task.wanted)) if by_parts else ""
    altered = tuple(map(_altered, task.inputs))

    def outputs(copies: str) -> list[Tensor]:
        given = [altered if copy == "s" else task.inputs for copy in copies]
        inputs = tuple(torch.cat(each) for each in zip(*given, strict=True))
        extra = tuple(map(scratch, task.repeated(task.additional, len(copies))))
        output = run(task.forward_func, inputs, extra)
        if by_parts:  # what belongs to an example is the target's to say
            rows = len(copies) * task.examples
            return [one_score_each(output, tile_target(task.wanted, len(copies), task.examples), rows).detach()]
        return output_tensors(main_output(output))

    # A graph is captured on a GPU, where reading a value would end it.
    may_run = host_may_wait() or task.device.type == "cpu"
    with evaluation(task.model, eager=True), torch.no_grad():
        found = rows_of(
            getattr(task.model, "rows_as", task.model),
            (
                kind,
                getattr(task.model, "rows_named", ""),
                task.given.names,
                tuple(map(_form, task.inputs)),
                tuple(map(_form, task.additional)),
            ),
            outputs,
            task.device,
            [tensor.dtype for tensor in task.inputs],
            may_run=may_run,
        )
    return Rows() if found is None else found


def _altered(tensor: Tensor) -> Tensor:
    """Half of each value: with another sum, norm, maximum and minimum, and an index where the whole is one."""
    if tensor.dtype == torch.bool or tensor.numel() == 0:
        return tensor
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor // 2
    half = tensor / 2
    return half if bool((half != tensor).any()) else torch.full_like(tensor, 0.25)


def _form(value: Any) -> Hashable:
    """What tells arguments apart that a model may treat differently."""
    if isinstance(value, Tensor):
        known = value.device.type == "cpu" and value.numel() <= SMALL and not value.is_floating_point()
        return tuple(value.shape), value.dtype, value.device, tuple(value.flatten().tolist()) if known else ()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(type(value))
