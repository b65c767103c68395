"""The gradient of the target by the inputs, as every gradient explainer needs it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import ChunkTooLarge, run, scratch
from fastsal.explainers.scores import Target, one_score_each

_copies = contextvars.ContextVar("fastsal altered copies", default=1)


@contextlib.contextmanager
def altered_copies(count: int) -> Iterator[None]:
    """Gradients inside are of a batch that holds ``count`` altered copies of the caller's examples.

    Copies may not share one score: a mean over them would scale their gradients.
    """
    token = _copies.set(_copies.get() * count)
    try:
        yield
    finally:
        _copies.reset(token)


def input_gradients(
    forward_func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    additional: tuple[Any, ...],
    target: Target,
    create_graph: bool = False,
    grad_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of the target's scores by the inputs; an input without influence gets zeros.

    The model gets a copy of the leaf, since writing to a leaf in place is an error. Call inside ``evaluation``. With
    ``create_graph`` the gradients can be differentiated, by inputs that require it and by the model's parameters.
    ``grad_kwargs`` are further arguments of ``torch.autograd.grad``.

    Raises:
        TypeError: for inputs that are not floating point.
        ChunkTooLarge: for one score of several altered copies.
    """
    for tensor in inputs:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise TypeError(f"inputs: {tensor.dtype} has no gradient; pass a floating point tensor")
    with torch.enable_grad():
        # detach() makes a tensor of its own over the same memory, so the caller's flag stays; the model gets a copy.
        leaves = [
            t if create_graph and t.requires_grad else (scratch(t) if t.is_inference() else t.detach()).requires_grad_()
            for t in inputs
        ]
        output = run(forward_func, tuple(leaf.clone() for leaf in leaves), tuple(map(scratch, additional)))
        scores = one_score_each(output, target, inputs[0].shape[0])
        if _copies.get() > 1 and scores.numel() != inputs[0].shape[0]:
            raise ChunkTooLarge("forward_func returns one score per call, whatever the batch")
        if not scores.requires_grad:
            raise ValueError("forward_func: its output does not depend on the inputs through autograd")
        options = {"allow_unused": True, "create_graph": create_graph, **(grad_kwargs or {})}
        gradients = torch.autograd.grad(scores.sum(), leaves, **options)
    return tuple(
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    )
