"""A forward function as a graph of functional operations, of any number of rows."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fastsal._torch import FakeTensorMode, OpOverload, TreeSpec, let_go, set_grad_enabled, tree_flatten
from fastsal.engine.incremental.hooks import hooks_of, without_hooks
from fastsal.engine.run.forward import run
from fastsal.engine.run.modules import modules_of
from fastsal.engine.run.operations import functional_form
from fastsal.engine.run.own import Undone


class NotTraceable(ValueError):
    """A forward function that is not one graph for every input."""


class Traced(NamedTuple):
    """A graph.

    Attributes:
        nodes: calls of operations, in order.
        input: the placeholder of the one input.
        constants: values of the nodes that hold weights and the like; the tensors are the model's own.
        outputs: what the graph returns, flat: nodes and constants.
        spec: how the flat outputs are put together.
    """

    nodes: tuple[fx.Node, ...]
    input: fx.Node
    constants: dict[fx.Node, Any]
    outputs: tuple[Any, ...]
    spec: TreeSpec

    def shape(self, value: Any) -> tuple[Any, ...] | None:
        """Of an argument: ints, and a symbol for the rows; () of a number, None of what is no tensor."""
        if not isinstance(value, fx.Node):
            return ()
        held = self.constants.get(value, value.meta.get("val"))
        return tuple(held.shape) if isinstance(held, Tensor) else None


class _Call(nn.Module):
    """A forward function of one tensor as a module that has the function's modules as parts."""

    def __init__(self, forward_func: Callable[..., Any], tell: Callable[[TreeSpec], None]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules_of(forward_func))
        self.__dict__.update(forward_func=forward_func, tell=tell)

    def forward(self, rows: Tensor) -> list[Any]:
        leaves, spec = tree_flatten(run(self.__dict__["forward_func"], (rows,)))
        self.__dict__["tell"](spec)
        return leaves


def trace(forward_func: Callable[..., Any], input: Tensor) -> Traced:
    """The graph of a forward function, by ``torch.fx`` over its operations or, where that cannot, by ``torch.export``.

    The first takes a fifth of the time; the second follows values that are written over and read again.

    Call inside ``evaluation(forward_func)`` and ``torch.no_grad``.

    Args:
        forward_func: module or callable of one tensor; one that has run, so that its modules are known.
        input: [1, ...], of the shape that the graph is to be of.

    Raises:
        NotTraceable: where the function's course depends on values, or its modules have hooks that change its output.
    """
    specs: list[TreeSpec] = []
    call = _Call(forward_func, specs.append)
    models = list(call.parts)
    hooks = hooks_of(forward_func, models, input)
    if hooks.refused:
        raise NotTraceable(hooks.refused)
    reasons = []
    for front in (_captured, _exported):
        try:
            with attributes_kept(models), without_hooks(models, hooks.away):
                traced = front(call, torch.cat([input.detach()] * 2), specs)
            for node in traced.nodes[:1]:
                let_go(node.meta.get("val"))
            return traced
        except Exception as error:  # whatever a model's own code makes of symbols
            reasons.append((str(error).strip() or type(error).__name__).split("\n", 1)[0])
    raise NotTraceable(f"torch.fx: {reasons[0]}; torch.export: {reasons[1]}")


@contextlib.contextmanager
def attributes_kept(models: Iterable[nn.Module]) -> Iterator[None]:
    """What a forward writes to its modules, symbols here, is undone."""
    parts = dict.fromkeys(part for model in models for part in model.modules())
    # A ScriptModule's buffers are no dict, and cannot be replaced.
    written = [held for part in parts for held in (vars(part), part._buffers) if isinstance(held, dict)]
    before = [(held, dict(held)) for held in written]
    with Undone() as undone:
        for held, items in before:
            undone.at_end(functools.partial(_back, held, items))
        yield


def _back(held: dict[str, Any], items: dict[str, Any]) -> None:
    """Set back what differs, one by one: other threads read it meanwhile, and may have a forward and flags there."""
    for name in [name for name in list(held) if name not in items and name != "forward"]:
        held.pop(name, None)
    for name, value in items.items():
        if held.get(name, held) is not value and name not in ("forward", "training"):
            held[name] = value


def _exported(call: _Call, rows: Tensor, specs: list[TreeSpec]) -> Traced:
    program = torch.export.export(call, (rows,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    program = program.run_decompositions({})
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    constants: dict[fx.Node, Any] = {}
    given: list[fx.Node] = []
    held = {**dict(call.named_parameters()), **dict(call.named_buffers()), **program.constants}
    for node, spec in zip(inputs, program.graph_signature.input_specs, strict=True):
        if spec.kind is torch.export.graph_signature.InputKind.USER_INPUT:
            given.append(node)
        else:
            constants[node] = held[spec.target]
    if program.graph_signature.buffers_to_mutate or len(given) != 1:
        raise NotTraceable("it writes to its buffers")
    # Ahead of the outputs are the inputs that it writes to, as they are then.
    written = len(program.graph_signature.user_inputs_to_mutate)
    return _traced(program.graph, given[0], constants, specs[-1], written)


def _captured(call: _Call, rows: Tensor, specs: list[TreeSpec]) -> Traced:
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    dynamic = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (rows.dim() - 1)]
    context: Any = StatelessSymbolicContext(dynamic_sizes=dynamic)
    fake = mode.from_tensor(rows, symbolic_context=context)
    with mode:
        module = make_fx(call, pre_dispatch=True)(fake)
    # Other guards are those of torch's own choices between ways to the same result.
    if mode.shape_env is not None and mode.shape_env.replacements:
        raise NotTraceable("it is written for one number of rows")
    (given,) = (node for node in module.graph.nodes if node.op == "placeholder")
    constants = {node: getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"}
    for node in module.graph.nodes:
        _make_functional(node)
    return _traced(module.graph, given, constants, specs[-1])


def _make_functional(node: fx.Node) -> None:
    """Put the functional form in the place of an operation that writes over its argument.

    Raises:
        NotTraceable: where the argument may be read again, or there is no such form.
    """
    target = node.target
    if not isinstance(target, OpOverload) or not target._schema.is_mutable:
        return
    form = functional_form(target)
    source = node.args[0]
    written = [each.name for each in target._schema.arguments if each.is_write]
    if form is None or written != [target._schema.arguments[0].name] or not isinstance(source, fx.Node):
        raise NotTraceable(f"{target} writes over its arguments")
    if source.op != "call_function" or aliases(source) or len(source.users) != 1:
        raise NotTraceable(f"{target} writes over a value that is read elsewhere")
    node.target = form


def aliases(node: fx.Node) -> bool:
    """Whether a value may share memory with another."""
    target = node.target
    if not isinstance(target, OpOverload):
        return True
    return target is torch.ops.aten.dropout.default or any(each.alias_info for each in target._schema.returns)


def _traced(graph: fx.Graph, given: fx.Node, constants: dict[fx.Node, Any], spec: TreeSpec, ahead: int = 0) -> Traced:
    # Nothing here has gradients, so that where they are switched off does not matter.
    nodes = tuple(node for node in graph.nodes if node.op == "call_function" and node.target is not set_grad_enabled)
    for node in nodes:
        if not isinstance(node.target, OpOverload) and getattr(node.target, "__module__", "") != "_operator":
            raise NotTraceable(f"it uses {getattr(node.target, '__name__', node.target)}")
    (output,) = (node for node in graph.nodes if node.op == "output")
    outputs: Any = output.args[0]
    outputs = tuple(outputs) if isinstance(outputs, (list, tuple)) else (outputs,)
    return Traced(nodes, given, constants, outputs[ahead:], spec)
