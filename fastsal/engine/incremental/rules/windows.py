"""Convolutions and pools: a window of the input makes an element of the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastsal.engine.incremental.rules.products import weights
from fastsal.engine.incremental.rules.rule import Average, Even, Local, OperationCall, Rule, Way, pair

aten = torch.ops.aten


def _convolution(call: OperationCall) -> Way:
    weight = call.shape(call.node.args[1])
    transposed = call.node.target is aten.convolution.default and call.node.args[6]
    if weight is None or len(weight) != 4 or transposed:
        return None
    stride, padding, dilation = pair(_given(call, 3, 1)), pair(_given(call, 4, 0)), pair(_given(call, 5, 1))
    return _local(call, Local((weight[2], weight[3]), stride, padding, dilation, 0.0))


def _max_pool(call: OperationCall) -> Way:
    kernel = pair(_given(call, 1, None))
    if _given(call, 5, False):
        return None  # a size rounded up: windows that reach over the border
    stride = pair(_given(call, 2, None) or kernel)
    return _local(call, Local(kernel, stride, pair(_given(call, 3, 0)), pair(_given(call, 4, 1)), float("-inf")))


def _max_pool_with_indices(call: OperationCall) -> Way:
    """The same, where nobody reads the indices: they count from the map's corner, not from a part's."""
    reads_indices = any(user.args[1:] != (0,) for user in call.node.users)
    return None if reads_indices else _max_pool(call)


def _average_pool(call: OperationCall) -> Way:
    kernel, padding = pair(_given(call, 1, None)), pair(_given(call, 3, 0))
    if _given(call, 4, False) or (padding != (0, 0) and not _given(call, 5, True)):
        return None
    return _local(call, Local(kernel, pair(_given(call, 2, None) or kernel), padding, (1, 1), 0.0))


def _adaptive_pool(call: OperationCall) -> Way:
    """The average over all positions, or the map as it is where it has the size asked for."""
    if call.where != (2, 3):
        return None
    size, (_, _, *extent) = pair(call.node.args[1]), call.shape(call.node.args[0]) or (0,) * 4
    if size == (1, 1):
        return Average(keeps=True)
    return Even((2, 3)) if size == tuple(extent) else None


def _given(call: OperationCall, position: int, default: Any) -> Any:
    return call.node.args[position] if len(call.node.args) > position else default


def _local(call: OperationCall, window: Local) -> Way:
    """A window of one element at its own place is the same as no window."""
    if call.node.kwargs or call.where != (2, 3):
        return None
    return Even((2, 3)) if window.pointwise else window


def _unpadded(position: int) -> Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]:
    """The operation without padding, which is that argument: the border is in the input."""

    def run(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > position:
            args = (*args[:position], [0, 0], *args[position + 1 :])
        return target(*args, **kwargs)

    return run


def _its_argument(_target: Callable[..., Any], args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    return args[0]


CONVOLUTION = Rule(_convolution, work=weights, run=_unpadded(4), fresh=True)
RULES = {
    aten.conv2d.default: CONVOLUTION,
    aten.convolution.default: CONVOLUTION,
    aten.max_pool2d.default: Rule(_max_pool, run=_unpadded(3), fresh=True),
    aten.max_pool2d_with_indices.default: Rule(_max_pool_with_indices, run=_unpadded(3)),
    aten.avg_pool2d.default: Rule(_average_pool, run=_unpadded(3), fresh=True),
    aten.adaptive_avg_pool2d.default: Rule(_adaptive_pool, run=_its_argument),
}
