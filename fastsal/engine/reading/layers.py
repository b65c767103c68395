"""A model's layers that a class activation map can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal.engine.reading.grid import Grid, grid_of
from fastsal.engine.reading.reading import read
from fastsal.engine.reading.resolving import prepared_of, resolve_layer, the_module
from fastsal.engine.run.forward import evaluation, find, one_example, run


class Layer(NamedTuple):
    """A module's dotted name, the shape of its output as [B, C, *spatial], and how that follows from its value."""

    name: str
    shape: tuple[int, ...]
    grid: Grid


def layers(model: Callable[..., Any], inputs: Any, additional_forward_args: Any = ()) -> list[Layer]:
    """Layers that a class activation map can read, in the order in which they finish.

    These are the modules whose output is one tensor with more than one position: [B, C, *spatial] with as many
    dimensions as the first input; or, for images and volumes, [B, *spatial, C] or a transformer's [B, tokens, C],
    whose patches make a grid of the input's form. Costs one pass, on the first example (on all where an extra argument
    has as many entries as there are examples), and another where it takes one to find the module behind a callable.

    Raises:
        TypeError: where there is not one module behind the model.
    """
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    first_input = next((value for value in values if isinstance(value, Tensor)), torch.empty(1))
    dimensions = first_input.dim()
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

    with evaluation(model, eager=True), torch.no_grad():
        find(model, values, extra)
        module, folded = the_module(model), {part for each in prepared_of(model) for part in each.folded}
        hooks = [
            part.register_forward_hook(reader(name))
            for name, part in module.named_modules()
            if name and part not in folded
        ]
        try:
            run(model, *one_example(values, extra))
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
