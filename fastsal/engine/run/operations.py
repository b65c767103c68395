"""The operations of a pass as a graph, by which tensors each was given: what ran, not what could have."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.weak import WeakTensorKeyDictionary

from fastsal._torch import OpOverload, TorchDispatchMode, disable_current_modes, tree_map


def functional_form(target: Any) -> Any:
    """The overload that makes what another writes over its argument; None of any other, or where there is none."""
    if not isinstance(target, OpOverload) or not target._schema.is_mutable:
        return None
    name = target._schema.name.split("::")[1]
    return getattr(getattr(torch.ops.aten, name.removesuffix("_"), None), target._overloadname, None)


def reads_values(node: fx.Node) -> bool:
    """Whether a call makes a number of a tensor, or a shape of its values."""
    tags = getattr(node.target, "tags", ())
    is_number = isinstance(node.meta.get("val"), (bool, int, float))
    return is_number or torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags


class Recorder(TorchDispatchMode):
    """Adds the operations that run inside to a graph, which holds no tensors.

    Args:
        graph: to add to. What an operation makes is its node's ``meta["val"]``, without values; tensors that no
            operation made are placeholders.
    """

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = graph
        self._nodes: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tree_map(self._argument, (args, kwargs))
        result = func(*args, **kwargs)
        node = self._graph.call_function(functional_form(func) or func, *given)
        if isinstance(result, (bool, int, float)):
            node.meta["val"] = result
        elif isinstance(result, Tensor):
            self._note(node, result)
        elif isinstance(result, (tuple, list)):
            for index, each in enumerate(result):
                if isinstance(each, Tensor):
                    self._note(self._graph.call_function(operator.getitem, (node, index)), each)
        return result

    def node_of(self, tensor: Tensor) -> fx.Node:
        """What made a tensor: a call, or, of one from outside, a placeholder."""
        if tensor not in self._nodes:
            self._note(self._graph.placeholder(f"tensor_{len(self._graph.nodes)}"), tensor)
        found: fx.Node = self._nodes[tensor]
        return found

    def alive(self) -> set[fx.Node]:
        """What made the tensors that someone holds."""
        return set(self._nodes.values())

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.node_of(value)
        return None if isinstance(value, torch.Generator) else value

    def _note(self, node: fx.Node, tensor: Tensor) -> None:
        with disable_current_modes():  # a hook may ask, inside of which this mode is on
            node.meta["val"] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self._nodes[tensor] = node
