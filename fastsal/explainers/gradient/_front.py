"""The path of Integrated Gradients behind a model's first layer, where that layer is affine."""

from __future__ import annotations

from fastsal._torch import len_torch_dispatch_stack
from fastsal.engine.reading import FirstLayer, first_layer
from fastsal.engine.run import host_may_wait
from fastsal.explainers.base import Attribution
from fastsal.explainers.task import Task

LEAST_ROWS = 32
"""Of a path for which the passes up to the layer are little."""
REFUSED = (
    "first_layer_once: it needs a model, not compiled, that reads its one input through one convolution or linear "
    "layer and nothing else; pass 'auto'"
)


def checked_front(setting: bool | str, create_graph: bool) -> None:
    """
    Raises:
        TypeError, ValueError: for what is neither ``"auto"``, True nor False; for True with a graph.
    """
    if not (setting == "auto" or isinstance(setting, bool)):
        raise TypeError(f'first_layer_once: {setting!r} is neither "auto", True nor False')
    if create_graph and setting is True:
        raise ValueError("first_layer_once: it goes without create_graph")


def front_of(explainer: Attribution, task: Task, rows: int, setting: bool | str) -> FirstLayer | None:
    """Where the path can begin and end behind the first layer, and it is wanted. Call inside the task's context.

    Args:
        explainer: keeps what was found of its model.
        task: ends of the path, and further arguments of the model.
        rows: of the whole path.
        setting: ``"auto"``, True or False.

    Raises:
        ValueError: for True where it cannot be.
    """
    traced = len_torch_dispatch_stack() > 0 or not host_may_wait()
    found = None
    if setting is True or (setting == "auto" and rows >= LEAST_ROWS):
        if len(task.inputs) == 1 and task.given.names is None and not traced:
            found = _found(explainer, task, setting is True)
        if found is None and setting is True:
            raise ValueError(REFUSED)
    return found


def give_up(explainer: Attribution) -> None:
    """Take what :func:`front_of` found for wrong, until the model changes."""
    known = explainer.state.found.get("first layer")
    if known is not None:
        known.give_up()


def _found(explainer: Attribution, task: Task, always: bool) -> FirstLayer | None:
    (x,), (begin,) = task.inputs, task.starts()
    known = explainer.state.found.get("first layer")
    layer, explainer.state.found["first layer"] = first_layer(
        task.model, x, begin, task.additional, known, whatever_it_costs=always
    )
    return layer
