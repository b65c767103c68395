"""A layer of a model, given as a module or by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn

from fastsal.engine.prepare.prepared import Prepared
from fastsal.engine.run.forward import evaluation, find
from fastsal.engine.run.modules import ForwardFunc, behind, module_of, modules_of


def the_module(model: ForwardFunc) -> nn.Module:
    """The one module behind a model.

    Raises:
        TypeError: where it is not known to be one.
    """
    module = module_of(model)
    if module is not None:
        return module
    name, several = type(model).__name__, modules_of(model)
    if not several:
        raise TypeError(f"model: {name} has no layers; pass the torch.nn.Module itself")
    kinds = ", ".join(sorted({type(each).__name__ for each in several}))
    raise TypeError(
        f"model: {name} runs {len(several)} modules ({kinds}), none of which runs the others, so no layer has a name; "
        "name the layer as a module, or pass the one torch.nn.Module that they are parts of"
    )


def prepared_of(model: ForwardFunc) -> list[Prepared]:
    """The prepared models behind a model, as far as they are known."""
    return [module for module in modules_of(model) if isinstance(module, Prepared)]


def resolve_layer(model: ForwardFunc, layer: nn.Module | str) -> nn.Module:
    """The module of a dotted name; a module as it is, or what stands for it in a prepared model.

    Raises:
        TypeError: for what is neither, and for a name where the model is not known to be one module.
        ValueError: for a name that the model does not have, with the nearest ones; for a layer that is folded.
    """
    prepared = prepared_of(model)
    if isinstance(layer, nn.Module):
        return _as_it_was(prepared, prepared[0].copy_of(layer) if prepared else layer)
    if not isinstance(layer, str):
        raise TypeError(f"layer: {type(layer).__name__} is neither a torch.nn.Module nor a dotted name")
    # A module that is registered twice has both names; torch.compile's wrapper puts its own before each.
    named = {name: part for name, part in the_module(model).named_modules(remove_duplicate=False) if name}
    found: nn.Module | None = named.get(layer, named.get(layer.removeprefix("_orig_mod.")))
    if found is not None:
        return _as_it_was(prepared, found)
    near = difflib.get_close_matches(layer, named, n=3, cutoff=0.3)
    hint = f"; did you mean {' or '.join(near)}" if near else ""
    raise ValueError(f"layer: the model has none named {layer!r}{hint}")


def resolvable(model: ForwardFunc, layers: Sequence[nn.Module | str]) -> bool:
    """Whether :func:`resolve_layer` can tell before the model has run: names are looked for in modules."""
    return behind(model) is not None or not any(isinstance(layer, str) for layer in layers)


def resolve_layers(
    model: ForwardFunc, layers: Sequence[nn.Module | str], inputs: tuple[Any, ...], additional: tuple[Any, ...]
) -> list[nn.Module]:
    """Each as of :func:`resolve_layer`, after a run of the model where that takes one."""
    if resolvable(model, layers):
        return [resolve_layer(model, layer) for layer in layers]
    with evaluation(model):
        find(model, inputs, additional)
        return [resolve_layer(model, layer) for layer in layers]


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
