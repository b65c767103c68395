"""Tap: one model pass read at a layer, the trunk before it without autograd and only the tail differentiated."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal.engine.forward import evaluation, owner, run, scratch
from fastsal.engine.reading import read


class Tap(NamedTuple):
    """What a tap read: the model's output, the layer's activations, and the gradient of the target by them."""

    output: Tensor
    activations: Tensor
    gradients: Tensor


class Layer(NamedTuple):
    """A module's dotted name and the shape of its output."""

    name: str
    shape: tuple[int, ...]


def _module(model: Callable[..., Any]) -> nn.Module:
    module = owner(model)
    if module is None:
        raise TypeError(f"model: {type(model).__name__} has no layers; pass the torch.nn.Module itself")
    return module


def resolve_layer(model: Callable[..., Any], layer: nn.Module | str) -> nn.Module:
    """The module of a dotted name; a module as it is.

    Raises:
        TypeError: for what is neither.
        ValueError: for a name that the model does not have, with the nearest ones.
    """
    if isinstance(layer, nn.Module):
        return layer
    if not isinstance(layer, str):
        raise TypeError(f"layer: {type(layer).__name__} is neither a torch.nn.Module nor a dotted name")
    # A module that is registered twice has both names; torch.compile's wrapper puts its own before each.
    named = {name: part for name, part in _module(model).named_modules(remove_duplicate=False) if name}
    found: nn.Module | None = named.get(layer, named.get(layer.removeprefix("_orig_mod.")))
    if found is not None:
        return found
    near = difflib.get_close_matches(layer, named, n=3, cutoff=0.3)
    hint = f"; did you mean {' or '.join(near)}" if near else ""
    raise ValueError(f"layer: the model has none named {layer!r}{hint}")


def layers(model: Callable[..., Any], inputs: Any, additional_forward_args: Any = ()) -> list[Layer]:
    """Layers that a class activation map can read, in the order in which they finish.

    These are the modules whose output is one tensor [B, C, *spatial] with more than one position and, for inputs of
    that kind, with as many dimensions as the first input (a transformer's [B, tokens, features] is no [B, C, length]).
    The last is the default layer of :class:`fastsal.GradCAM`. Costs one pass, on the first example (on all
    where an extra argument has as many entries as there are examples).
    """
    module = _module(model)
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    batch = next((value.shape[0] for value in values if isinstance(value, Tensor)), 1)
    dimensions = next((value.dim() for value in values if isinstance(value, Tensor)), 0)
    allowed = (dimensions,) if 3 <= dimensions <= 5 else (3, 4, 5)
    found: dict[str, tuple[int, ...]] = {}

    def reader(name: str) -> Callable[..., None]:
        def read(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found.pop(name, None)
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            if output.dim() in allowed and output.shape[2:].numel() > 1:
                found[name] = tuple(output.shape)

        return read

    # An extra argument with as many entries may be one for each example or not: then all examples run.
    whole = any(isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch for value in extra)

    def first(value: Any) -> Any:
        if whole:
            return value
        return value[:1] if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch else value

    hooks = [part.register_forward_hook(reader(name)) for name, part in module.named_modules() if name]
    try:
        with evaluation(model, eager=True), torch.no_grad():
            run(
                model, tuple(scratch(first(value)) for value in values), tuple(scratch(first(value)) for value in extra)
            )
    finally:
        for hook in hooks:
            hook.remove()
    return [Layer(name, shape) for name, shape in found.items()]


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
