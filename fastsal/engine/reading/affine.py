"""Whether a score is an affine function of a tensor, read off autograd's graph and what leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastsal._torch import tree_leaves

# Affine in everything that they take.
_LINEAR = {
    "AsStridedBackward0",
    "AdaptiveAvgPool1DBackward0",
    "AdaptiveAvgPool2DBackward0",
    "AdaptiveAvgPool3DBackward0",
    "AddBackward0",
    "AliasBackward0",
    "AvgPool2DBackward0",
    "AvgPool3DBackward0",
    "CatBackward0",
    "CloneBackward0",
    "ExpandBackward0",
    "FlipBackward0",
    "GatherBackward0",
    "IndexBackward0",
    "MeanBackward0",
    "MeanBackward1",
    "MkldnnAdaptiveAvgPool2DBackward0",
    "NegBackward0",
    "PermuteBackward0",
    "RepeatBackward0",
    "ReshapeAliasBackward0",
    "SelectBackward0",
    "SliceBackward0",
    "SplitBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "StackBackward0",
    "SubBackward0",
    "SumBackward0",
    "SumBackward1",
    "TBackward0",
    "ToCopyBackward0",
    "TransposeBackward0",
    "UnbindBackward0",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "UpsampleBilinear2DBackward0",
    "ViewBackward0",
}
# Affine in each operand with the others held.
_BILINEAR = {
    "AddmmBackward0",
    "BaddbmmBackward0",
    "BmmBackward0",
    "ConvolutionBackward0",
    "DotBackward0",
    "LinearBackward0",
    "MmBackward0",
    "MulBackward0",
    "MvBackward0",
}


class Escapes(TorchFunctionMode):
    """Watches for values that leave autograd's graph: a comparison, an argmax, a detached copy, a number.

    What is made of them depends on the tensor in a way that the graph does not show.

    Attributes:
        active: whether to watch.
        seen: whether one did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        # Attributes that are no tensors (shape, dtype, ...) and the questions below tell nothing of values.
        harmless = name in _OF_SHAPE or (name == "__get__" and not isinstance(result, Tensor))
        if self.seen or harmless or not self.active:
            return result
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(leaf.requires_grad for leaf in given):
            made = tree_leaves(result)
            self.seen = any(not (isinstance(leaf, Tensor) and leaf.requires_grad) for leaf in made if leaf is not None)
        return result


_OF_SHAPE = {
    "__len__",
    "dim",
    "element_size",
    "get_device",
    "is_complex",
    "is_contiguous",
    "is_floating_point",
    "ndimension",
    "numel",
    "size",
    "storage_offset",
    "stride",
    "type",
}


def _inputs(node: Any) -> list[Any]:
    return [edge[0] for edge in node.next_functions if edge[0] is not None]


def _topological(root: Any) -> Iterator[Any]:
    """Every node below root, inputs first."""
    seen: set[Any] = set()
    pending: list[tuple[Any, bool]] = [(root, False)]
    while pending:
        node, ready = pending.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            pending.append((node, True))
            pending += [(child, False) for child in _inputs(node)]


def reaches(scores: Tensor, tensors: Iterable[Iterable[Tensor]], beside: Iterable[Tensor]) -> bool:
    """Whether scores depend on one of the tensors other than through those ``beside``, as far as the graph tells."""
    barrier, leaves = _nodes_of(beside)
    nodes, others = _nodes_of(tensor for each in tensors for tensor in each)
    pending, seen = [scores.grad_fn], set(barrier)
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if node in nodes or any(variable is leaf for leaf in others):
            return True
        if not any(variable is leaf for leaf in leaves):
            pending += _inputs(node)
    return False


def _nodes_of(tensors: Iterable[Tensor]) -> tuple[set[Any], list[Tensor]]:
    """Where tensors stand in the graph: the nodes of those that were computed, and the leaves."""
    given = [tensor for tensor in tensors if tensor.requires_grad]
    return {t.grad_fn for t in given if t.grad_fn is not None}, [t for t in given if t.grad_fn is None]


def is_affine(scores: Tensor, leaf: Tensor) -> bool:
    """Whether each score is an affine function of ``leaf``; False also where that cannot be seen.

    A node of the graph is affine in what it takes, or in one of its operands while no other depends on the leaf. Then
    the gradient is the same at every value of the leaf.
    """
    if scores.grad_fn is None:
        return False
    depends: dict[Any, bool] = {}
    for node in _topological(scores.grad_fn):
        reaching = [child for child in _inputs(node) if depends[child]]
        depends[node] = bool(reaching) or getattr(node, "variable", None) is leaf or node is leaf.grad_fn
        if node is leaf.grad_fn or not reaching or node.name() in _LINEAR:
            continue
        numerator = node.name() == "DivBackward0" and reaching == [node.next_functions[0][0]]
        if not numerator and (node.name() not in _BILINEAR or len(reaching) > 1):
            return False
    return depends[scores.grad_fn]
