"""What is known of an operation: one record for each ATen overload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

Axes = tuple[int, int]
"""Which dimensions of a value are height and width."""
Shape = Callable[[Any], tuple[Any, ...] | None]


class Local(NamedTuple):
    """Each element of the result is made of a window of the argument, over dimensions 2 and 3.

    Output element i reads input elements i * stride - padding + dilation * [0, kernel), in each dimension.

    Attributes:
        fill: what the border is padded with.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    fill: float

    @property
    def pointwise(self) -> bool:
        """Whether each output reads the input at its own place alone."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    def reach(self, axis: int) -> int:
        """From the first to the last input element of a window."""
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1


class Even(NamedTuple):
    """Each position of the result is made of the same position of the arguments.

    Attributes:
        axes: height and width of the result.
    """

    axes: Axes


class Average(NamedTuple):
    """The average over all positions.

    Attributes:
        keeps: whether the result keeps the dimensions of height and width.
    """

    keeps: bool


class Rows(NamedTuple):
    """The number of rows, which no change reaches."""


Way = Local | Even | Average | Rows | None
"""How a change goes on; None is everywhere: the operation needs the whole map."""


class OperationCall(NamedTuple):
    """A call of an operation.

    Attributes:
        node: the call.
        shape: of an argument, or of the call itself; () of a number, None of what is no tensor.
        axes: height and width of the arguments that vary and have them; others are constants.
    """

    node: fx.Node
    shape: Shape
    axes: Mapping[fx.Node, Axes]

    @property
    def where(self) -> Axes:
        """Height and width of the first argument that varies."""
        return next(iter(self.axes.values()))

    @property
    def rank(self) -> int:
        """Dimensions of the first argument that varies."""
        return len(self.shape(next(iter(self.axes))) or ())

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """An argument, however it was given."""
        args = self.node.args
        return args[position] if len(args) > position else self.node.kwargs.get(name, default)

    def dimension(self, value: Any) -> int:
        """A dimension of the first argument that varies, counted from 0."""
        return int(value) % self.rank if self.rank else 0

    def dimensions(self) -> list[int]:
        """The dimensions that a reduction names."""
        given = self.argument("dim", 1)
        if given is None:
            return []
        return [self.dimension(each) for each in ([given] if isinstance(given, int) else given)]


def elements(call: OperationCall) -> float:
    """One for each element of a row of the result, as if each took a multiply-add."""
    result = call.shape(call.node)
    if result is None:
        return 0.0
    count = 1.0
    for size in result[1:]:
        count *= float(size)
    return count


def everywhere(_call: OperationCall) -> Way:
    """Each element of the result may depend on each of the arguments."""
    return None


def as_it_is(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation itself."""
    return target(*args, **kwargs)


@dataclass(frozen=True)
class Rule:
    """What an operation makes of a map of which a part has changed.

    Attributes:
        reach: how the change goes on. Asked where every argument that varies has height and width, and, unless
            ``several``, where only the first argument varies.
        several: whether arguments beside the first may vary.
        work: multiply-adds of a row, on the whole map.
        run: (overload, arguments, keyword arguments) into its result on a part of the map. Where the way is
            :class:`Local`, the argument holds the border that the operation would have padded.
        fresh: whether the result shares no memory with an argument, so that the next operation may be written over it.
    """

    reach: Callable[[OperationCall], Way] = everywhere
    several: bool = False
    work: Callable[[OperationCall], float] = elements
    run: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any] = as_it_is
    fresh: bool = False


def pair(value: Any) -> tuple[int, int]:
    """One number or two, for height and width."""
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, (rest[0] if rest else first)
