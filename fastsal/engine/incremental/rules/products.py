"""Matrix products and attention: what they cost, and the linear layer over channels, which keeps positions apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastsal.engine.incremental.rules.rule import Even, OperationCall, Rule, Way, elements

aten = torch.ops.aten


def weights(call: OperationCall) -> float:
    """A multiply-add for each element of the result and each weight that makes it; the weights are [K, ...]."""
    count = elements(call)
    for size in (call.shape(call.node.args[1]) or ())[1:]:
        count *= float(size)
    return count


def _inner(position: int) -> Callable[[OperationCall], float]:
    """The same of a product whose left matrix is that argument."""

    def work(call: OperationCall) -> float:
        matrix: tuple[Any, ...] = call.shape(call.node.args[position]) or ()
        return elements(call) * (float(matrix[-1]) if matrix else 1.0)

    return work


def _attention(call: OperationCall) -> float:
    """Queries with keys, and weights with values."""
    keys: tuple[Any, ...] = call.shape(call.node.args[1]) or (0, 0)
    return elements(call) * 2.0 * float(keys[-2])


def _linear(call: OperationCall) -> Way:
    return Even(call.where) if call.rank - 1 not in call.where else None


RULES = {
    aten.linear.default: Rule(_linear, work=weights, fresh=True),
    aten.addmm.default: Rule(work=_inner(1), fresh=True),
    aten.mm.default: Rule(work=_inner(0)),
    aten.bmm.default: Rule(work=_inner(0)),
    aten.matmul.default: Rule(work=_inner(0)),
    aten.scaled_dot_product_attention.default: Rule(work=_attention),
}
