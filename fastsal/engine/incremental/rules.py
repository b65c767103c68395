"""What an operation makes of a map of which a part has changed.

It is local (a window of the input makes an element of the output), even (each position by itself), an average over all
positions, or anything else, which needs the whole map.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx

from fastsal._torch import OpOverload

aten = torch.ops.aten
Axes = tuple[int, int]
"""Which dimensions of a value are height and width."""
Shape = Callable[[Any], tuple[Any, ...] | None]


class Local(NamedTuple):
    """A window operation over dimensions 2 and 3.

    Output element i reads input elements i * stride - padding + dilation * [0, kernel), in each dimension.

    Attributes:
        fill: what the border is padded with.
        padding_at: the position of the padding among the arguments.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    fill: float
    padding_at: int

    @property
    def pointwise(self) -> bool:
        """Whether each output reads the input at its own place alone."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    def reach(self, axis: int) -> int:
        """From the first to the last input element of a window."""
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1


def local(node: fx.Node, shape: Shape) -> Local | None:
    """A window operation's geometry; None for any other operation."""
    args = node.args

    def given(position: int, default: Any) -> Any:
        return args[position] if len(args) > position else default

    if node.kwargs:
        return None
    if node.target in CONVOLUTIONS:
        weight = shape(args[1])
        transposed = node.target is aten.convolution.default and args[6]
        if weight is None or len(weight) != 4 or transposed:
            return None
        stride, padding, dilation = _pair(given(3, 1)), _pair(given(4, 0)), _pair(given(5, 1))
        return Local((weight[2], weight[3]), stride, padding, dilation, 0.0, 4)
    if node.target in (aten.max_pool2d.default, aten.max_pool2d_with_indices.default):
        kernel = _pair(args[1])
        if given(5, False):
            return None  # a size rounded up: windows that reach over the border
        stride = _pair(given(2, None) or kernel)
        return Local(kernel, stride, _pair(given(3, 0)), _pair(given(4, 1)), float("-inf"), 3)
    if node.target is aten.avg_pool2d.default:
        kernel, padding = _pair(args[1]), _pair(given(3, 0))
        if given(4, False) or (padding != (0, 0) and not given(5, True)):
            return None
        return Local(kernel, _pair(given(2, None) or kernel), padding, (1, 1), 0.0, 3)
    return None


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, (rest[0] if rest else first)


CONVOLUTIONS = (aten.conv2d.default, aten.convolution.default)
_COPIES = {
    aten.clone.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
}
_SOFTMAX = {aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default}
_REDUCTIONS = {aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default, aten.var.correction}
_SPLITS = {aten.split.Tensor: 2, aten.split_with_sizes.default: 2, aten.chunk.default: 2}
_NORMS = {aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default}
_LAYER_NORMS = {aten.layer_norm.default, aten.native_layer_norm.default}


def even(node: fx.Node, shape: Shape, axes: dict[fx.Node, Axes]) -> Axes | None:
    """Height and width of the result of an operation that treats all positions alike; None for any other.

    Args:
        node: a call with at least one argument in ``axes``.
        shape: of an argument.
        axes: height and width of the arguments that have them; others are constants.
    """
    target, args = node.target, node.args
    changed = [each for each in node.all_input_nodes if each in axes]
    first = changed[0]
    where, rank = axes[first], len(shape(first) or ())
    pointwise = isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags
    if pointwise or target in _COPIES:
        return _broadcast(node, shape, axes)
    if target is operator.getitem:
        return where
    if target is aten.cat.default:
        dimension = _dimension(args[1] if len(args) > 1 else 0, len(shape(node) or ()))
        same = all(axes.get(each) == where for each in node.all_input_nodes)
        return where if same and dimension not in (0, *where) else None
    if args[0] is not first or len(changed) > 1:
        return None
    if target is aten.dropout.default:
        return None if args[2] else where
    if target in _NORMS:
        training = target is aten.batch_norm.default and args[5]
        return None if 1 in where or training else where
    if target in _LAYER_NORMS:
        return where if max(where) < rank - len(args[1]) else None  # type: ignore[arg-type]
    if target is aten.linear.default:
        return where if rank - 1 not in where else None
    if target in _SOFTMAX:
        return where if _dimension(args[1], rank) not in (0, *where) else None
    if target in _REDUCTIONS:
        dimensions = _dimensions(node, rank)
        keeps = _argument(node, "keepdim", 2, False)
        return where if keeps and dimensions and not {0, *where} & set(dimensions) else None
    if target is aten.slice.Tensor or target in _SPLITS:
        position = 1 if target is aten.slice.Tensor else 2
        return where if _dimension(args[position] if len(args) > position else 0, rank) not in (0, *where) else None
    if target is aten.permute.default:
        order = [_dimension(each, rank) for each in args[1]]  # type: ignore[union-attr]
        return (order.index(where[0]), order.index(where[1])) if order[0] == 0 else None
    if target is aten.transpose.int:
        pair = [_dimension(each, rank) for each in args[1:3]]
        if 0 in pair:
            return None
        swapped = {pair[0]: pair[1], pair[1]: pair[0]}
        return swapped.get(where[0], where[0]), swapped.get(where[1], where[1])
    if target is aten.adaptive_avg_pool2d.default:
        extent = shape(first) or ()
        return where if where == (2, 3) and _pair(args[1]) == (extent[2], extent[3]) else None
    return None


def is_identity(node: fx.Node) -> bool:
    """Whether an even operation returns its argument: pooling to the size that a map has."""
    return node.target is aten.adaptive_avg_pool2d.default


def _broadcast(node: fx.Node, shape: Shape, axes: dict[fx.Node, Axes]) -> Axes | None:
    """Height and width of an elementwise result, where all its arguments have them in the same place."""
    result = shape(node)
    if result is None:
        return None
    found: set[Axes] = set()
    for each in node.all_input_nodes:
        size = shape(each)
        if each in axes:
            ahead = len(result) - len(size or ())
            where = (axes[each][0] + ahead, axes[each][1] + ahead)
            found.add(where)
            if ahead or size is None or any(size[a] != result[a] for a in axes[each]):
                return None
        elif size is None:
            return None
    if len(found) != 1:
        return None
    (where,) = found
    for each in node.all_input_nodes:
        size = shape(each) or ()
        ahead = len(result) - len(size)
        if each not in axes and any(a >= ahead and size[a - ahead] != 1 for a in where):
            return None
    return where


def average(node: fx.Node, shape: Shape, where: Axes) -> bool | None:
    """Whether an average over all positions keeps their dimensions; None for any other operation."""
    rank = len(shape(node.args[0]) or ())
    if node.target is aten.mean.dim and set(_dimensions(node, rank)) == set(where):
        return bool(_argument(node, "keepdim", 2, False)) if node.kwargs.get("dtype") is None else None
    if node.target is aten.adaptive_avg_pool2d.default and where == (2, 3) and _pair(node.args[1]) == (1, 1):
        return True
    return None


def _argument(node: fx.Node, name: str, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _dimensions(node: fx.Node, rank: int) -> list[int]:
    given = _argument(node, "dim", 1, None)
    if given is None:
        return []
    return [_dimension(each, rank) for each in ([given] if isinstance(given, int) else given)]


def _dimension(value: Any, rank: int) -> int:
    return int(value) % rank if rank else 0
