"""A model's layers: by name, and those that a class activation map can read."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal.engine.prepare.prepared import Prepared
from fastsal.engine.reading.grid import Grid, grid_of
from fastsal.engine.reading.reading import read
from fastsal.engine.run.forward import evaluation, owner, owners, run, scratch


class Layer(NamedTuple):
    """A module's dotted name, the shape of its output as [B, C, *spatial], and how that follows from its value."""

    name: str
    shape: tuple[int, ...]
    grid: Grid


def _module(model: Callable[..., Any]) -> nn.Module:
    module = owner(model)
    if module is None:
        raise TypeError(f"model: {type(model).__name__} has no layers; pass the torch.nn.Module itself")
    return module


def resolve_layer(model: Callable[..., Any], layer: nn.Module | str) -> nn.Module:
    """The module of a dotted name; a module as it is.

    Raises:
        TypeError: for what is neither.
        ValueError: for a name that the model does not have, with the nearest ones; for a layer that is folded.
    """
    prepared = [module for module in owners(model) if isinstance(module, Prepared)]
    if isinstance(layer, nn.Module):
        return _as_it_was(prepared, prepared[0].copy_of(layer) if prepared else layer)
    if not isinstance(layer, str):
        raise TypeError(f"layer: {type(layer).__name__} is neither a torch.nn.Module nor a dotted name")
    # A module that is registered twice has both names; torch.compile's wrapper puts its own before each.
    named = {name: part for name, part in _module(model).named_modules(remove_duplicate=False) if name}
    found: nn.Module | None = named.get(layer, named.get(layer.removeprefix("_orig_mod.")))
    if found is not None:
        return _as_it_was(prepared, found)
    near = difflib.get_close_matches(layer, named, n=3, cutoff=0.3)
    hint = f"; did you mean {' or '.join(near)}" if near else ""
    raise ValueError(f"layer: the model has none named {layer!r}{hint}")


def _as_it_was(prepared: list[Prepared], layer: nn.Module) -> nn.Module:
    """A layer whose value is the model's.

    Raises:
        ValueError: for a convolution of a prepared model whose value is the batch norm's.
    """
    if prepared and layer in prepared[0].folded:
        raise ValueError(
            "layer: a batch norm was folded into this convolution, so its own value is gone; take the batch norm's, "
            "or prepare the model with fold_batch_norm=False"
        )
    return layer


def layers(model: Callable[..., Any], inputs: Any, additional_forward_args: Any = ()) -> list[Layer]:
    """Layers that a class activation map can read, in the order in which they finish.

    These are the modules whose output is one tensor with more than one position: [B, C, *spatial] with as many
    dimensions as the first input; or, for images and volumes, [B, *spatial, C] or a transformer's [B, tokens, C],
    whose patches make a grid of the input's form. Costs one pass, on the first example (on all where an extra argument
    has as many entries as there are examples).
    """
    module = _module(model)
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    first_input = next((value for value in values if isinstance(value, Tensor)), torch.empty(1))
    batch, dimensions = first_input.shape[0], first_input.dim()
    found: dict[str, Layer] = {}

    def grid(shape: torch.Size) -> Grid | None:
        if 3 <= dimensions <= 5:
            return grid_of(shape, first_input.shape[2:])
        return Grid("channels", tuple(shape[2:])) if 3 <= len(shape) <= 5 and shape[2:].numel() > 1 else None

    def reader(name: str) -> Callable[..., None]:
        def visit(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found.pop(name, None)
            if isinstance(output, Tensor) and output.is_floating_point() and (form := grid(output.shape)) is not None:
                channels = output.shape[1] if form.kind == "channels" else output.shape[-1]
                found[name] = Layer(name, (output.shape[0], channels, *form.size), form)

        return visit

    # An extra argument with as many entries may be one for each example or not: then all examples run.
    whole = any(isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch for value in extra)

    def first(value: Any) -> Any:
        if whole:
            return value
        return value[:1] if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch else value

    folded = {part for each in owners(model) if isinstance(each, Prepared) for part in each.folded}
    hooks = [
        part.register_forward_hook(reader(name)) for name, part in module.named_modules() if name and part not in folded
    ]
    try:
        with evaluation(model, eager=True), torch.no_grad():
            run(
                model, tuple(scratch(first(value)) for value in values), tuple(scratch(first(value)) for value in extra)
            )
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


def default_layer(
    model: Callable[..., Any],
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...],
    select: Callable[[Any], Tensor],
    verify: bool = False,
) -> Layer:
    """The last layer that a class activation map can read, as :func:`layers` finds them.

    A transformer's classifier may read one token, so that the last layers' patches have no gradient: there it is the
    last layer, a linear map aside, whose patches have one. Costs a second pass then, with its backward pass,
    as for any model with ``verify``.

    Raises:
        ValueError: where there is none.
    """
    found = [(layer, resolve_layer(model, layer.name)) for layer in layers(model, inputs, additional)]
    found = [(layer, part) for layer, part in found if layer.grid.kind != "tokens" or not isinstance(part, nn.Linear)]
    if not found:
        raise ValueError("layer: the model has none with an output [B, C, *spatial] or of patches; name one")
    if found[-1][0].grid.kind != "tokens" and not verify:
        return found[-1][0]
    gradients = read(model, [part for _, part in found], inputs, additional, select).gradients
    for (layer, _), gradient in zip(reversed(found), reversed(gradients), strict=True):
        if layer.grid.arrange(gradient[0]).count_nonzero():
            return layer
    raise ValueError("layer: no patch has influence on the target; name a layer")
