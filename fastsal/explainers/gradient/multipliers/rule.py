"""What a rule is: from one function at both ends, the inputs and the baselines, to what it sends back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import OpOverload

Gradients = tuple[Tensor | None, ...]
Back = Callable[[Gradients, Mapping[str, Tensor]], dict[str, Tensor]]
"""(multipliers of the results, plain gradients by argument) -> multipliers by argument; one left out keeps its own."""


def names(text: str) -> frozenset[str]:
    """A set of words."""
    return frozenset(text.split())


@functools.cache
def functional(func: OpOverload) -> OpOverload:
    """``relu`` of ``relu_``: the overload that writes to nothing; any that has no such twin as it is."""
    space, name = func._schema.name.split("::")
    if not (space == "aten" and name.endswith("_") and func._schema.is_mutable):
        return func
    found: OpOverload = getattr(getattr(torch.ops.aten, name[:-1], None), func._overloadname, func)
    return found


@functools.cache
def tensor_arguments(func: OpOverload) -> tuple[str, ...]:
    """Names of the arguments that are a tensor, in the order of the schema, which is that of autograd's edges."""
    return tuple(a.name for a in func._schema.arguments if str(a.type) in ("Tensor", "Optional[Tensor]"))


def bound(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults included."""
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in func._schema.arguments}


def wide(value: Tensor) -> Tensor:
    """In at least float32, in which differences are taken."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def summed(value: Tensor, like: Tensor) -> Tensor:
    """Summed over the dimensions along which an argument was broadcast."""
    return value if value.shape == like.shape else value.sum_to_size(like.shape)


@dataclass(frozen=True)
class Ends:
    """A function that ran on the inputs and on the baselines.

    Attributes:
        func: the overload, in the form that writes to nothing.
        arguments: by name, at the inputs.
        starts: those that depend on the inputs and carry a gradient, at the baselines.
        output: the result at the inputs.
        eps: a difference below it is not divided by.
    """

    func: OpOverload
    arguments: dict[str, Any]
    starts: dict[str, Tensor]
    output: Any
    eps: float

    def both(self, name: str) -> tuple[Tensor, Tensor]:
        """An argument's values, wide."""
        end: Tensor = self.arguments[name]
        return wide(end), wide(self.starts.get(name, end))

    def middle(self, name: str) -> Tensor:
        """The mean of an argument's values, in the argument's dtype."""
        end, start = self.both(name)
        value: Tensor = self.arguments[name]
        return ((end + start) / 2).to(value.dtype)

    def run(self, values: Mapping[str, Tensor]) -> Any:
        """The function with other values of some arguments."""
        arguments = {**self.arguments, **values}
        ordered = [arguments[a.name] for a in self.func._schema.arguments if not a.kwarg_only]
        named = {a.name: arguments[a.name] for a in self.func._schema.arguments if a.kwarg_only}
        return self.func(*ordered, **named)


def always(arguments: Mapping[str, Any], varying: frozenset[str]) -> bool:
    """Of a function that is not linear in any argument."""
    return True


def all_vary(*names: str) -> Callable[[Mapping[str, Any], frozenset[str]], bool]:
    """Of a function that is linear in each of these by itself."""

    def curved(arguments: Mapping[str, Any], varying: frozenset[str]) -> bool:
        return varying.issuperset(names)

    return curved


@dataclass(frozen=True)
class Rule:
    """What one overload sends back.

    Attributes:
        prepare: what is kept of both ends when the function has run on the inputs; None keeps the gradient.
        curved: whether the function is not linear in the arguments that vary; where it is linear its gradient is exact.
    """

    prepare: Callable[[Ends], Back | None]
    curved: Callable[[Mapping[str, Any], frozenset[str]], bool] = always
