"""What a rule of an operation is given, and the table that it stands in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fastsal._torch import OpOverload
from fastsal.engine.reading.geometry.layout import Layout, plain

LayoutOf = Callable[[Tensor], "Layout | None"]
Rule = Callable[["Operation"], Any]
RULES: dict[str, Rule] = {}
"""By the name of an ATen operation, whatever its overload. A rule gives the first result's layout, or all in a list."""


class Operation:
    """A call of an operation, whose arguments are asked for by name.

    Args:
        func: the overload.
        args, kwargs: of the call.
        result: what it returned.
        layout_of: of a tensor; None where it depends on no input.
        contracted: told of the layout and the dimension that a product takes the sum over.
    """

    def __init__(
        self,
        func: OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        layout_of: LayoutOf,
        contracted: Callable[[Layout, int], None],
    ) -> None:
        self.func, self.result, self.contracted = func, result, contracted
        self._args, self._kwargs, self._layout_of = args, kwargs, layout_of

    def __getitem__(self, name: str) -> Any:
        for index, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                if index < len(self._args):
                    return self._args[index]
                return self._kwargs.get(name, argument.default_value)
        raise KeyError(name)

    def at(self, index: int) -> Any:
        return self._args[index] if index < len(self._args) else None

    def known(self, value: Any) -> Layout | None:
        """A tensor's layout; None of a constant, and of what is no tensor."""
        return self._layout_of(value) if isinstance(value, Tensor) else None

    def layout(self, value: Any) -> Layout:
        """A tensor's layout, also of a constant."""
        found = self.known(value)
        return tuple(map(plain, value.shape)) if found is None else found

    @property
    def first(self) -> Layout:
        """The layout of the first argument."""
        return self.layout(self._args[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        result = self.result if isinstance(self.result, Tensor) else self.result[0]
        return tuple(result.shape)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Says of a function that it is the rule of these operations."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def each_dimension(value: Any, count: int) -> list[int]:
    """An argument of one number for all dimensions, or one each."""
    given = list(value) if isinstance(value, Sequence) else [value]
    return [int(each) for each in (given * count if len(given) == 1 else given)]
