"""Operations that treat all positions alike, each by itself, and the average over them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from fastsal.engine.incremental.rules.rule import Average, Axes, Even, OperationCall, Rows, Rule, Way

aten = torch.ops.aten


def _broadcast(call: OperationCall) -> Way:
    """An elementwise operation, where all its arguments have height and width in the same place."""
    result = call.shape(call.node)
    if result is None:
        return None
    found: set[Axes] = set()
    for each in call.node.all_input_nodes:
        size = call.shape(each)
        if each in call.axes:
            ahead = len(result) - len(size or ())
            height, width = call.axes[each]
            found.add((height + ahead, width + ahead))
            if ahead or size is None or any(size[axis] != result[axis] for axis in (height, width)):
                return None
        elif size is None:
            return None
    if len(found) != 1:
        return None
    (where,) = found
    for each in call.node.all_input_nodes:
        size = call.shape(each) or ()
        ahead = len(result) - len(size)
        if each not in call.axes and any(axis >= ahead and size[axis - ahead] != 1 for axis in where):
            return None
    return Even(where)


def _item(call: OperationCall) -> Way:
    return Even(call.where)


def _concatenation(call: OperationCall) -> Way:
    rank = len(call.shape(call.node) or ())
    dimension = int(call.argument("dim", 1, 0)) % rank if rank else 0
    same = all(call.axes.get(each) == call.where for each in call.node.all_input_nodes)
    return Even(call.where) if same and dimension not in (0, *call.where) else None


def _dropout(call: OperationCall) -> Way:
    training = call.node.args[2]
    return None if training else Even(call.where)


def _batch_norm(call: OperationCall) -> Way:
    training = call.node.target is aten.batch_norm.default and call.node.args[5]
    return None if 1 in call.where or training else Even(call.where)


def _slopes(call: OperationCall) -> Way:
    return Even(call.where) if 1 not in call.where else None


def _layer_norm(call: OperationCall) -> Way:
    normalized: Any = call.node.args[1]
    return Even(call.where) if max(call.where) < call.rank - len(normalized) else None


def along(name: str, position: int, default: int = 0) -> Callable[[OperationCall], Way]:
    """Of what mixes or cuts one dimension, an argument: even, where that is neither the rows nor a position's."""

    def reach(call: OperationCall) -> Way:
        dimension = call.dimension(call.argument(name, position, default))
        return Even(call.where) if dimension not in (0, *call.where) else None

    return reach


def _reduction(call: OperationCall) -> Way:
    dimensions = call.dimensions()
    keeps = call.argument("keepdim", 2, False)
    return Even(call.where) if keeps and dimensions and not {0, *call.where} & set(dimensions) else None


def _mean(call: OperationCall) -> Way:
    if set(call.dimensions()) != set(call.where):
        return _reduction(call)
    return Average(bool(call.argument("keepdim", 2, False))) if call.node.kwargs.get("dtype") is None else None


def _permutation(call: OperationCall) -> Way:
    given: Any = call.node.args[1]
    order = [call.dimension(each) for each in given]
    height, width = call.where
    return Even((order.index(height), order.index(width))) if order[0] == 0 else None


def _transposition(call: OperationCall) -> Way:
    first, second = (call.dimension(each) for each in call.node.args[1:3])
    if 0 in (first, second):
        return None
    swapped = {first: second, second: first}
    height, width = call.where
    return Even((swapped.get(height, height), swapped.get(width, width)))


def _rows(call: OperationCall) -> Way:
    return Rows() if call.node.args[1] == 0 else None


POINTWISE = Rule(_broadcast, several=True, fresh=True)
"""Of whatever ATen says is elementwise, and of what is without ATen's saying so."""
_COPY = Rule(_broadcast, several=True)
_REDUCTION = Rule(_reduction)
_SOFTMAX = Rule(along("dim", 1))
_SPLIT = Rule(along("dim", 2))
RULES = {
    aten.hardswish.default: POINTWISE,
    aten.log_sigmoid.default: POINTWISE,
    aten.prelu.default: Rule(_slopes, fresh=True),
    aten._to_copy.default: _COPY,
    aten.to.dtype: _COPY,
    aten.to.dtype_layout: _COPY,
    aten.contiguous.default: _COPY,
    aten.alias.default: _COPY,
    aten.detach.default: _COPY,
    aten.lift_fresh_copy.default: _COPY,
    operator.getitem: Rule(_item),
    aten.cat.default: Rule(_concatenation, several=True),
    aten.dropout.default: Rule(_dropout),
    aten.batch_norm.default: Rule(_batch_norm, fresh=True),
    aten._native_batch_norm_legit_no_training.default: Rule(_batch_norm),
    aten.layer_norm.default: Rule(_layer_norm),
    aten.native_layer_norm.default: Rule(_layer_norm),
    aten.softmax.int: _SOFTMAX,
    aten._softmax.default: _SOFTMAX,
    aten.log_softmax.int: _SOFTMAX,
    aten._log_softmax.default: _SOFTMAX,
    aten.mean.dim: Rule(_mean),
    aten.sum.dim_IntList: _REDUCTION,
    aten.amax.default: _REDUCTION,
    aten.amin.default: _REDUCTION,
    aten.var.correction: _REDUCTION,
    aten.slice.Tensor: Rule(along("dim", 1)),
    aten.split.Tensor: _SPLIT,
    aten.split_with_sizes.default: _SPLIT,
    aten.chunk.default: _SPLIT,
    aten.permute.default: Rule(_permutation),
    aten.transpose.int: Rule(_transposition),
    aten.sym_size.int: Rule(_rows),
}
