"""pytorch-grad-cam's search for layers, and its replacement of them in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn


def _children(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in model._modules.items() if layer is not None]


def replace_layer_recursive(model: nn.Module, old_layer: nn.Module, new_layer: nn.Module) -> bool:
    """Put a layer in the place of another; whether the model has that."""
    for name, layer in _children(model):
        if layer is old_layer:
            model._modules[name] = new_layer
            return True
        if replace_layer_recursive(layer, old_layer, new_layer):
            return True
    return False


def replace_all_layer_type_recursive(model: nn.Module, old_layer_type: type[nn.Module], new_layer: nn.Module) -> None:
    """Put one layer in the place of each of a type."""
    for name, layer in _children(model):
        if isinstance(layer, old_layer_type):
            model._modules[name] = new_layer
        replace_all_layer_type_recursive(layer, old_layer_type, new_layer)


def find_layer_types_recursive(model: nn.Module, layer_types: Iterable[type[nn.Module]]) -> list[nn.Module]:
    """The layers of exactly one of some types, in the order in which they are registered."""
    types = list(layer_types)
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in types)


def find_layer_predicate_recursive(model: nn.Module, predicate: Callable[[nn.Module], bool]) -> list[nn.Module]:
    """The layers for which a function is true, in the order in which they are registered."""
    found = []
    for _, layer in _children(model):
        if predicate(layer):
            found.append(layer)
        found += find_layer_predicate_recursive(layer, predicate)
    return found
