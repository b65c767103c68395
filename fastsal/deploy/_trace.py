"""An explainer as one graph of ATen operations: prediction and map of an input and a target, its gradient inside."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from fastsal._torch import FakeTensorMode, enable_python_dispatcher
from fastsal.engine.run import chunks_of, without_waiting
from fastsal.explainers import Attribution
from fastsal.explainers.scores import Target, one_score_each
from fastsal.explanation.compiled import explained, whole
from fastsal.ops import decompositions

TRACED_BATCHES = (5, 7, 11, 13)
"""Sizes of a batch that stands for all: not 0 or 1, which PyTorch specialises on."""


def chosen_target(output: Tensor, target: Tensor) -> Tensor:
    """Where a target is negative, the class with the highest output."""
    return torch.where(target < 0, output.argmax(1), target)


def trace(
    explainer: Attribution,
    x: Tensor,
    options: Mapping[str, Any],
    *,
    fixed: Target = None,
    items: int,
    most: int | None,
    decompose: Mapping[Any, Any] | None = None,
) -> ExportedProgram:
    """The program (input, target int64 [B]) -> (output [B, K], map).

    Args:
        explainer: one that has run, so that its layer is known.
        x: example input [B, ...].
        options: arguments of its ``attribute``.
        fixed: a target that is no index, of which the output is the score then, [B, 1].
        items: alterations per model pass.
        most: the largest batch of a program for every batch from 1 on; None fixes the example's.
        decompose: further decompositions, by operator.
    """
    # What tracing leaves on an explainer is not left on the caller's.
    explainer = copy.copy(explainer)
    if most == 1:
        x, most = x[:1], None
    if most is not None:
        batch = next(size for size in TRACED_BATCHES if size not in x.shape[1:])
        x = x[:1].expand(batch, *x.shape[1:]).contiguous()
    target = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def explain(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if fixed is not None:
            found = whole(explainer, x, options, fixed)
            return one_score_each(found.output, fixed, x.shape[0])[:, None], found.attribution
        found = explained(explainer, x, options, lambda output: chosen_target(output, target))
        return found.output, found.attribution

    # The traced batch is one of those that the graph is for.
    most = None if most is None else max(most, len(x))
    table = {**decompositions(len(x), most or len(x)), **(decompose or {})}
    with _fake(x, target, most is not None) as arguments, without_waiting(), chunks_of(items):
        graph = make_fx(explain, decomposition_table=table, tracing_mode="real", _allow_non_fake_inputs=True)(
            *arguments
        )
    _drop_detached(graph)
    dynamic = None
    if most is not None:
        dimension = Dim("batch", min=1, max=most)
        dynamic = ({0: dimension}, {0: dimension})
    with torch.no_grad():  # its backward passes are operations of the graph, and some forward ones are for this alone
        return torch.export.export(graph, (x, target), dynamic_shapes=dynamic)


@contextlib.contextmanager
def _fake(x: Tensor, target: Tensor, dynamic: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Both without values; the batch is a symbol where it is dynamic, every other size a number."""
    # One symbol per origin: equal sizes of a batch and something else are no reason to tie the two.
    shapes = ShapeEnv(duck_shape=False)
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes)
    first = DimDynamic.DYNAMIC if dynamic else DimDynamic.STATIC

    def context(tensor: Tensor) -> StatelessSymbolicContext[Any, Any]:
        return StatelessSymbolicContext([first] + [DimDynamic.STATIC] * (tensor.dim() - 1))

    given = mode.from_tensor(x, symbolic_context=context(x))
    # Of the same batch: its size is the input's symbol.
    with mode:
        chosen = torch.empty((given.shape[0],), dtype=target.dtype, device=target.device)
    # Without it, shapes that C++ hands to operators would be numbers.
    with mode, enable_python_dispatcher():
        yield given, chosen


def _drop_detached(graph: GraphModule) -> None:
    """A graph without autograd has nothing to detach from."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
