"""What a pass of a module came to: its operations, and which module was given and returned what they made."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from fastsal._torch import AutoDispatchBelowAutograd, tree_leaves
from fastsal.engine.run.forward import run
from fastsal.engine.run.operations import Recorder


@dataclass
class ModuleCall:
    """One call of a module.

    Attributes:
        name: the module's, dotted; "" of the one that was run.
        parent: the call inside of which it was, by index.
        start, stop: its operations, by index.
        given, returned: what made its arguments' and its output's tensors.
        symbolic: whether all arguments of its forward were tensors, so that no plain value chose its course.
    """

    name: str
    parent: int | None
    start: int
    stop: int = -1
    given: set[fx.Node] = field(default_factory=set)
    returned: set[fx.Node] = field(default_factory=set)
    symbolic: bool = True


@dataclass
class Flow:
    """One pass.

    Attributes:
        nodes: its operations in order; placeholders are what was there before.
        calls: of modules, the first that of the one that was run.
        names: dotted names of the parameters and buffers that were read.
        held: what made the tensors that are still there after the pass.
        hooked: names of modules with hooks of their own.
    """

    nodes: list[fx.Node]
    calls: list[ModuleCall]
    names: dict[fx.Node, list[str]]
    held: set[fx.Node]
    hooked: set[str]

    def around(self, node: fx.Node) -> list[int]:
        """The calls inside of which an operation ran, the innermost last."""
        place = self._places[node]
        return [index for index, call in enumerate(self.calls) if call.start <= place < call.stop]

    def __post_init__(self) -> None:
        self._places = {node: place for place, node in enumerate(self.nodes)}


def flow_of(module: nn.Module, arguments: Sequence[Any]) -> Flow:
    """A pass of a module on copies of arguments, without autograd, watched.

    Args:
        module: one that hooks may be set on, such as a replica; none is left.
        arguments: of its forward.

    Raises:
        Exception: whatever the module's own code raises.
    """
    graph = fx.Graph()
    recorder, calls = Recorder(graph), list[ModuleCall]()
    hooked = {name for name, part in module.named_modules(remove_duplicate=False) if _has_hooks(part)}
    copies = tuple(value.detach().clone() if isinstance(value, Tensor) else value for value in arguments)
    # Below autograd operations are seen as they are called, before PyTorch takes them apart.
    with _told(module, graph, recorder, calls), AutoDispatchBelowAutograd(), recorder:
        output = run(module, copies)
    held = recorder.alive()
    made = [node for node in held if node.op == "call_function"]
    if len(made) > len([leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]):
        gc.collect()  # what is in a cycle is held by nobody; it takes long in a large process
        held = recorder.alive()
    names: dict[fx.Node, list[str]] = {}
    known = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    for each in known:
        for name, tensor in each:
            names.setdefault(recorder.node_of(tensor), []).append(name)
    del output
    return Flow(list(graph.nodes), calls, names, held, hooked)


@contextmanager
def _told(module: nn.Module, graph: fx.Graph, recorder: Recorder, calls: list[ModuleCall]) -> Iterator[None]:
    running: list[int] = []

    def nodes_of(value: Any) -> set[fx.Node]:
        return {recorder.node_of(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)}

    with ExitStack() as stack:
        for name, part in module.named_modules():

            def enter(part: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                parent = running[-1] if running else None
                call = ModuleCall(name, parent, len(graph.nodes), given=nodes_of((args, kwargs)))
                call.start, call.symbolic = len(graph.nodes), _gets_tensors_alone(part, args, kwargs)
                running.append(len(calls))
                calls.append(call)

            def leave(_part: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
                call = calls[running.pop()]
                call.stop, call.returned = len(graph.nodes), nodes_of(output)

            stack.callback(part.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(part.register_forward_hook(leave, with_kwargs=True).remove)
        yield


def _gets_tensors_alone(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not all(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        return False
    parameters = inspect.signature(part.forward).parameters.values()
    named = all(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters)
    return named and len(parameters) == len(args) + len(kwargs)


def _has_hooks(part: nn.Module) -> bool:
    return any((part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks))
