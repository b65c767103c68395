"""The gradient of the selected scores by the inputs, as every gradient explainer needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run.forward import run, scratch


def input_gradients(
    forward_func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    additional: tuple[Any, ...],
    select: Callable[[Any], Tensor],
    create_graph: bool = False,
    grad_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of the selected scores' sum by the inputs; an input without influence gets zeros.

    The model gets a copy of the leaf, since writing to a leaf in place is an error. Call inside ``evaluation``.

    Args:
        forward_func: module or callable.
        inputs: tensors [n, ...].
        additional: further arguments of the model, which gets copies.
        select: scores of the model's output.
        create_graph: the gradients can be differentiated, by inputs that require it and by the model's parameters.
        grad_kwargs: further arguments of ``torch.autograd.grad``.

    Raises:
        TypeError: for inputs that are not floating point.
        ValueError: for scores that do not depend on the inputs.
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
        scores = select(run(forward_func, tuple(leaf.clone() for leaf in leaves), tuple(map(scratch, additional))))
        if not scores.requires_grad:
            raise ValueError("forward_func: its output does not depend on the inputs through autograd")
        options = {"allow_unused": True, "create_graph": create_graph, **(grad_kwargs or {})}
        gradients = torch.autograd.grad(scores.sum(), leaves, **options)
    return tuple(
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    )
