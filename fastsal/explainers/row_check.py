"""What the rows of a batch have to do with each other, for the inputs and arguments of a call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastsal._torch import len_torch_dispatch_stack
from fastsal.engine.run import (
    Rows,
    Undone,
    compare_last,
    evaluation,
    host_may_wait,
    output_tensors,
    rows_of,
    run,
    scratch,
    seen_together,
    stance,
)
from fastsal.explainers.outputs import main_output
from fastsal.explainers.scores import one_score_each, scores_examples, tile_target

if TYPE_CHECKING:
    from fastsal.explainers.task import Task

SMALL = 64
"""Elements of an extra tensor that are told apart by their values."""


def _may_ask(task: Task) -> bool:
    """Whether values can be read now: a graph is captured on a GPU, where reading one would end it."""
    return host_may_wait() or task.device.type == "cpu"


def _owner(task: Task) -> Any:
    return getattr(task.model, "rows_as", task.model)


def _key(task: Task) -> Hashable:
    """For which form of call something is remembered of the owner."""
    by_parts = scores_examples(task.wanted)
    return (
        str(type(task.wanted)) if by_parts else "",
        getattr(task.model, "rows_named", ""),
        task.given.names,
        tuple(map(_form, task.inputs)),
        tuple(map(_form, task.additional)),
    )


def _tensors(task: Task, output: Any, copies: int) -> list[Tensor]:
    """Of an output for copies, what has rows."""
    if scores_examples(task.wanted):  # what belongs to an example is the target's to say
        wanted = tile_target(task.wanted, copies, task.examples)
        return [one_score_each(output, wanted, copies * task.examples).detach()]
    return output_tensors(main_output(output))


def last_copy_of(task: Task, count: int, altered: Callable[[], Mapping[int, Tensor]]) -> Callable[[Any], None]:
    """What is to be told of the output for so many copies; ``altered`` are the inputs of the last of them.

    It looks whether the last copy has the output that it has alone, where the sweep has looked at the rows of two, and
    not yet of so many: one copy more, once for a form of call and a number of copies. It raises
    :class:`fastsal.engine.run.Coupled` where it has not.
    """
    if count < 3 or task.looked_at != Rows() or task.copies > 1:
        return _nothing
    if task.together < count:
        task.together = _largest_seen(task) or count
    if count <= task.together:
        return _nothing
    last = altered()

    def alone() -> list[Tensor]:
        with Undone() as undone, torch.no_grad():
            stance.hold(stance.EAGER, undone)  # of another size, for which nothing is to be compiled
            return _tensors(task, run(task.forward_func, *task.batch(1, {i: scratch(x) for i, x in last.items()})), 1)

    def compare(output: Any) -> None:
        seen, dtypes = _tensors(task, output, count), [tensor.dtype for tensor in task.inputs]
        compare_last(_owner(task), _key(task), count, seen, alone, dtypes)
        task.together = count

    return compare


def _nothing(_output: Any) -> None:
    return None


def _largest_seen(task: Task) -> int:
    """How many copies were seen together without effect on each other; 0 where that is not to be asked."""
    if any(tensor.is_meta for tensor in task.inputs) or not _may_ask(task):
        return 0
    if len_torch_dispatch_stack() > 0 or torch.compiler.is_compiling() or getattr(task.model, "rows_apart", False):
        return 0
    return seen_together(_owner(task), _key(task))


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
    altered = tuple(map(_altered, task.inputs))

    def outputs(copies: str) -> list[Tensor]:
        given = [altered if copy == "s" else task.inputs for copy in copies]
        inputs = tuple(torch.cat(each) for each in zip(*given, strict=True))
        extra = tuple(map(scratch, task.repeated(task.additional, len(copies))))
        return _tensors(task, run(task.forward_func, inputs, extra), len(copies))

    with evaluation(task.model, eager=True), torch.no_grad():
        found = rows_of(
            _owner(task),
            _key(task),
            outputs,
            task.device,
            [tensor.dtype for tensor in task.inputs],
            may_run=_may_ask(task),
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
