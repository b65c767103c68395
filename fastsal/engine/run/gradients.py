"""The gradient of the selected scores by the inputs, as every gradient explainer needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run.forward import run, scratch
from fastsal.engine.run.modules import ForwardFunc, modules_of

_OF_NUMPY = "Can't call numpy() on Tensor that requires grad"
_OF_INFERENCE = "Inference tensors cannot be saved for backward"
"""What PyTorch says where a forward leaves autograd in a way that no graph can go on from."""


def input_gradients(
    forward_func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    additional: tuple[Any, ...],
    select: Callable[[Any], Tensor],
    create_graph: bool = False,
    grad_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of the selected scores' sum by the inputs; None by an input that the scores do not depend on.

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
    """
    for tensor in inputs:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise TypeError(
                f"inputs: {tensor.dtype} has no gradient; pass a floating point tensor, or name a layer behind it"
            )
    with torch.enable_grad():
        # detach() makes a tensor of its own over the same memory, so the caller's flag stays; the model gets a copy.
        leaves = [
            t if create_graph and t.requires_grad else (scratch(t) if t.is_inference() else t.detach()).requires_grad_()
            for t in inputs
        ]
        try:
            output = run(forward_func, tuple(leaf.clone() for leaf in leaves), tuple(map(scratch, additional)))
        except (RuntimeError, ValueError) as error:
            if leaves_autograd(forward_func, error):
                return (None,) * len(inputs)
            raise
        scores = select(output)
        if not scores.requires_grad:
            return (None,) * len(inputs)
        options = {"create_graph": create_graph, **(grad_kwargs or {})}
        options.pop("materialize_grads", None)  # what None stands for is the caller's to say
        return torch.autograd.grad(scores.sum(), leaves, **{**options, "allow_unused": True})


def leaves_autograd(forward_func: ForwardFunc, error: BaseException) -> bool:
    """Whether a forward failed because it goes on, from a tensor with a graph, where there can be none."""
    cause = error.__cause__ if isinstance(error, ValueError) else error
    if not isinstance(cause, RuntimeError):
        return False
    if _OF_NUMPY in str(cause):
        return True
    # Parameters that were made in inference mode are another fault.
    parameters = (parameter for module in modules_of(forward_func) for parameter in module.parameters())
    return _OF_INFERENCE in str(cause) and not any(parameter.is_inference() for parameter in parameters)
