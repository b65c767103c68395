"""What explainers of a neuron share: the model up to a value of a layer, as a function that any method can explain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastsal.engine.reading import resolvable, resolve_layer, resolve_layers, values_at
from fastsal.engine.run import calling, run
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import Attribution, Display, GradientAttribution, describe
from fastsal.explainers.call import Call

Selector = Any
"""An int, a tuple of ints and slices (whose values are summed), or a function of the layer's value."""
Method = TypeVar("Method", bound=Attribution)


class NeuronAttribution(GradientAttribution):
    """Base of the explainers of a neuron: of a value of a layer instead of the model's output.

    Of a layer that runs several times it is a value of the last.

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake. A DataParallel model runs on its first device.

    Attributes:
        method: the method of the model that explains the neuron, of those that are made of one.
    """

    reads = "layer"
    nameable = False
    display = Display("range", 100.0)
    method: Attribution

    def __init__(self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None) -> None:
        super().__init__(forward_func.module if isinstance(forward_func, nn.DataParallel) else forward_func)
        if isinstance(layer, (list, tuple)):
            raise TypeError(f"layer: {type(layer).__name__} given, but {type(self).__name__} is of one layer")
        self.layer = resolve_layer(self.forward_func, layer) if resolvable(self.forward_func, [layer]) else layer
        self.device_ids = device_ids

    @property
    def multiplies_by_inputs(self) -> bool:
        return hasattr(self, "method") and self.method.multiplies_by_inputs

    def of_neuron(
        self,
        method: Method,
        inputs: Inputs,
        selector: Selector,
        at_input: bool,
        additional_forward_args: Any,
        /,
        *arguments: Any,
        **options: Any,
    ) -> Call[Any]:
        """A method's call, with the neuron in the place of the model's output.

        Args:
            method: an explainer of the model.
            inputs: of the model.
            selector: chooses the neuron.
            at_input: of the layer's input rather than its output.
            additional_forward_args: further arguments of the model.
            arguments: of the method's ``attribute`` after the inputs.
            options: its keywords.
        """
        put = copy.copy(method)
        put.forward_func = self.neuron(inputs, selector, at_input, additional_forward_args)
        return describe(put, inputs, *arguments, additional_forward_args=additional_forward_args, **options)

    def neuron(self, inputs: Inputs, selector: Selector, at_input: bool, additional: Any) -> Callable[..., Tensor]:
        """The model's function up to the neuron: one value per row, on its graph."""
        checked_selector(selector)
        runs_once = [True]

        def chosen(tensors: tuple[Tensor, ...]) -> Tensor:
            # A copy, since what is behind the layer may write to its value.
            value = select_neuron(tensors, selector).clone()
            if runs_once[0]:
                torch.set_grad_enabled(False)  # what is behind needs no gradient
            return value

        def found_of(given: tuple[Any, ...], named: dict[str, Any]) -> list[list[Any]]:
            layer, graph = self.resolved(given), torch.is_grad_enabled()
            with torch.set_grad_enabled(graph), values_at([layer], at_input=at_input, taken=chosen) as found:
                # Given by name where the inputs are a mapping.
                self.forward_func(*given, **named) if named else run(self.forward_func, given)
            return found

        @calling(self.forward_func)
        def neuron(*given: Any, **named: Any) -> Tensor:
            found = found_of(given, named)
            if runs_once[0] and len(found[0]) > 1:  # the last value depends on the ones before
                runs_once[0] = False
                found = found_of(given, named)
            value: Tensor = last_use(found)
            return value

        name = self._name()
        if name is not None and not callable(selector):
            neuron.rows_as = self.forward_func  # type: ignore[attr-defined]
            neuron.rows_named = (name, at_input, repr(selector))  # type: ignore[attr-defined]
        return neuron

    def _name(self) -> str | None:
        """The layer's dotted name; None where it has none in the model, or there is no model."""
        if not isinstance(self.forward_func, nn.Module) or isinstance(self.layer, str):
            return self.layer if isinstance(self.layer, str) else None
        return next((name for name, module in self.forward_func.named_modules() if module is self.layer), None)

    def resolved(self, given: tuple[Any, ...]) -> nn.Module:
        """The layer's module, which may take a run of the model on the arguments to find."""
        (found,) = resolve_layers(self.forward_func, [self.layer], given, ())
        self.layer = found
        return found


def checked_selector(selector: Selector) -> None:
    """
    Raises:
        TypeError: for what is neither an int, a tuple of ints and slices, nor a function.
    """
    entries = selector if isinstance(selector, tuple) else (selector,)
    fine = all((isinstance(each, int) and not isinstance(each, bool)) or isinstance(each, slice) for each in entries)
    if not callable(selector) and not (fine and entries and not isinstance(selector, slice)):
        raise TypeError(
            f"neuron_selector: {selector!r} is neither an int, a tuple of ints and slices, nor a function of the "
            "layer's value"
        )


def last_use(found: list[list[Any]]) -> Any:
    """What was found at one layer when it ran last.

    Raises:
        ValueError: for a layer that did not run.
    """
    if not found[0]:
        raise ValueError("layer: the model did not run it; choose one that its forward calls")
    return found[0][-1]


def select_neuron(tensors: tuple[Tensor, ...], selector: Selector) -> Tensor:
    """The chosen value of each row, [n], or one for all, [1]; of a tuple with slices the sum of the chosen ones.

    Raises:
        ValueError: for a selector that does not fit the value or leaves several.
    """
    if callable(selector):
        chosen = selector(tensors if len(tensors) > 1 else tensors[0])
        if not isinstance(chosen, Tensor) or (chosen.numel() != 1 and chosen[:1].numel() != 1):
            given = tuple(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__
            raise ValueError(
                f"neuron_selector: it returned {given}; return one value for each row, [B], or one for all"
            )
        return chosen.reshape(-1)
    if len(tensors) > 1:
        raise ValueError(
            f"neuron_selector: {selector!r} does not say which of the layer's {len(tensors)} tensors is meant; pass a "
            "function of the tuple"
        )
    (value,) = tensors
    places = selector if isinstance(selector, tuple) else (selector,)
    shape = tuple(value.shape)
    if len(places) > len(shape) - 1:
        raise ValueError(
            f"neuron_selector: {selector!r} has more entries than the layer's value {shape} has beside the batch"
        )
    for place, size in zip(places, shape[1:], strict=False):
        if isinstance(place, int) and not -size <= place < size:
            raise ValueError(f"neuron_selector: {place} is out of range for {size} (0 to {size - 1})")
    chosen = value[(slice(None), *places)]
    if any(isinstance(place, slice) for place in places):
        return chosen.flatten(1).sum(1)
    if chosen.dim() > 1 and chosen[:1].numel() != 1:
        raise ValueError(
            f"neuron_selector: {selector!r} leaves {tuple(chosen.shape)} of the layer's value {shape}; name one value "
            "per example, or slices, whose values are summed"
        )
    return chosen.reshape(-1)


def selection_weights(tensors: tuple[Tensor, ...], selector: Selector) -> tuple[Tensor, ...]:
    """How much the chosen value changes with each of the layer's: 1 where it is chosen, 0 elsewhere."""
    with torch.enable_grad():
        leaves = tuple(tensor.detach().requires_grad_() for tensor in tensors)
        chosen = select_neuron(leaves, selector)
        found = torch.autograd.grad(chosen.sum(), leaves, allow_unused=True)
    return tuple(torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True))
