"""One pass as a graph of its operations: what they are and how large, which a trace would cost seconds to tell."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.weak import WeakTensorKeyDictionary

from fastsal._torch import TorchDispatchMode, tree_flatten, tree_map
from fastsal.engine.incremental.tracing import NotTraceable, Traced, attributes_kept, functional_form, has_hooks
from fastsal.engine.run.forward import run
from fastsal.engine.run.modules import modules_of


def record(forward_func: Callable[..., Any], input: Tensor) -> Traced:
    """The graph of one pass, of which shapes can be relied on and nothing else: numbers in it are of this input.

    It runs in inference mode, in which operations are seen as a trace sees them, before PyTorch takes them apart. The
    graph holds no tensors: those that are not made in it are placeholders.

    Call inside ``evaluation(forward_func)`` and ``torch.no_grad``.

    Args:
        forward_func: module or callable of one tensor.
        input: [1, ...].

    Raises:
        NotTraceable: for a forward that does not run so or whose course depends on values, modules with hooks, and
            TorchScript.
    """
    models = modules_of(forward_func)
    parts = [part for model in models for part in model.modules()]
    if any(map(has_hooks, parts)):
        raise NotTraceable("its modules have hooks, which would see one pass more")
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        raise NotTraceable("it is TorchScript, which runs for symbols in part only")
    graph = fx.Graph()
    recorder = _Recorder(graph)
    rows = input.detach().clone()
    given = recorder.node_of(rows)
    try:
        with attributes_kept(models), torch.inference_mode(), recorder:
            run(forward_func, (rows,))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model's own code makes of inference mode
        raise NotTraceable((str(error).strip() or type(error).__name__).split("\n", 1)[0]) from error
    nodes = tuple(node for node in graph.nodes if node.op == "call_function")
    varying = {given}
    for node in nodes:
        if not varying.isdisjoint(node.all_input_nodes):
            varying.add(node)
            if _reads_values(node):
                raise NotTraceable(f"{node.target} reads values, on which its course depends")
    return Traced(nodes, given, {}, (), tree_flatten(())[1])


def _reads_values(node: fx.Node) -> bool:
    """Whether a call makes a number of a tensor, or a shape of its values."""
    tags = getattr(node.target, "tags", ())
    is_number = isinstance(node.meta.get("val"), (bool, int, float))
    return is_number or torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags


class _Recorder(TorchDispatchMode):
    """Adds the operations that run inside to a graph."""

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

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.node_of(value)
        return None if isinstance(value, torch.Generator) else value

    def _note(self, node: fx.Node, tensor: Tensor) -> None:
        node.meta["val"] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self._nodes[tensor] = node
