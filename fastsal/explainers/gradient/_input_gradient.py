"""The gradient of the target by the inputs, as every gradient explainer needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine import ChunkTooLarge, run, scratch
from fastsal.explainers.base import Target, one_score_each


def input_gradients(
    forward_func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    additional: tuple[Any, ...],
    target: Target,
    copies: int = 1,
) -> tuple[Tensor, ...]:
    """Gradients of the target's scores by the inputs; an input without influence gets zeros.

    The model gets a copy of the leaf, since writing to a leaf in place is an error. Call inside ``evaluation``.
    ``copies`` altered copies of the batch may not share one score: a mean over them would scale their gradients.

    Raises:
        TypeError: for inputs that are not floating point.
        ChunkTooLarge: for one score of several copies.
    """
    for tensor in inputs:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise TypeError(f"inputs: {tensor.dtype} has no gradient; pass a floating point tensor")
    with torch.enable_grad():
        # detach() makes a tensor of its own over the same memory, so the caller's flag stays; the model gets a copy.
        leaves = [(scratch(t) if t.is_inference() else t.detach()).requires_grad_() for t in inputs]
        output = run(forward_func, tuple(leaf.clone() for leaf in leaves), tuple(map(scratch, additional)))
        scores = one_score_each(output, target, inputs[0].shape[0])
        if copies > 1 and scores.numel() != inputs[0].shape[0]:
            raise ChunkTooLarge("forward_func returns one score per call, whatever the batch")
        if not scores.requires_grad:
            raise ValueError("forward_func: its output does not depend on the inputs through autograd")
        gradients = torch.autograd.grad(scores.sum(), leaves, allow_unused=True)
    return tuple(
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    )
