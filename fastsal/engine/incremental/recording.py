"""One pass as a graph of its operations: what they are and how large, which a trace would cost seconds to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from fastsal._torch import tree_flatten
from fastsal.engine.incremental.hooks import hooks_of, without_hooks
from fastsal.engine.incremental.tracing import NotTraceable, Traced, attributes_kept
from fastsal.engine.run.forward import run
from fastsal.engine.run.modules import modules_of
from fastsal.engine.run.operations import Recorder, reads_values


def record(forward_func: Callable[..., Any], input: Tensor) -> Traced:
    """The graph of one pass, of which shapes can be relied on and nothing else: numbers in it are of this input.

    It runs in inference mode, in which operations are seen as a trace sees them, before PyTorch takes them apart. The
    graph holds no tensors: those that are not made in it are placeholders.

    Call inside ``evaluation(forward_func)`` and ``torch.no_grad``.

    Args:
        forward_func: module or callable of one tensor.
        input: [1, ...].

    Raises:
        NotTraceable: for a forward that does not run so or whose course depends on values, hooks that change
            the output, and TorchScript.
    """
    models = modules_of(forward_func)
    parts = [part for model in models for part in model.modules()]
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        raise NotTraceable("it is TorchScript, which runs for symbols in part only")
    hooks = hooks_of(forward_func, models, input)
    if hooks.refused:
        raise NotTraceable(hooks.refused)
    graph = fx.Graph()
    recorder = Recorder(graph)
    rows = input.detach().clone()
    given = recorder.node_of(rows)
    try:
        with attributes_kept(models), without_hooks(models, hooks.away), torch.inference_mode(), recorder:
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
            if reads_values(node):
                raise NotTraceable(f"{node.target} reads values, on which its course depends")
    return Traced(nodes, given, {}, (), tree_flatten(())[1])
