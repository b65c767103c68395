"""Tap: one model pass read at a layer, the trunk before it without autograd and only the tail differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastsal.engine.reading import read


class Tap(NamedTuple):
    """What a tap read: the model's output, the layer's activations, and the gradient of the target by them."""

    output: Tensor
    activations: Tensor
    gradients: Tensor


def tap(
    model: Callable[..., Any],
    layer: nn.Module,
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...],
    select: Callable[[Tensor], Tensor],
    create_graph: bool = False,
) -> Tap:
    """Run the model once and read a layer and the gradient of the selected scores by it.

    The layer's output becomes a leaf; the tail works on a copy of it, so that an activation in place after the layer
    changes neither what is recorded nor the map. A layer that runs several times is read at its last use.

    Args:
        model: module or callable around one.
        layer: one of its modules.
        inputs, additional: arguments of the model; it gets copies.
        select: one score per example [B] from the model's output.
        create_graph: keep the graph, so that activations and gradients can be differentiated.

    Raises:
        ValueError: when the layer does not run, its output is not one tensor, or the scores do not depend on it.
    """
    reading = read(model, (layer,), inputs, additional, select, create_graph=create_graph)
    if len(reading.values[0]) != 1:
        raise ValueError("layer: its output is a tuple, not one tensor; choose a layer inside it")
    return Tap(reading.output, reading.values[0][0], reading.gradients[0][0])
