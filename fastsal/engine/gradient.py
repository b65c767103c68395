"""One forward and one backward pass to the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.engine.forward import Runner, outside_inference


class Gradients(NamedTuple):
    """The model's output (detached) and the gradient of its selected scores by each input."""

    output: Tensor
    gradients: tuple[Tensor, ...]


def gradients(
    run: Runner, inputs: Sequence[Tensor], select: Callable[[Any], Tensor], copies: int = 1
) -> Gradients:
    """Gradients of the selected scores by the inputs; call it inside ``run.evaluation(grad=True)``.

    Args:
        run: the model.
        inputs: floating point; they and their flags stay as they are, the model gets copies that it may write to.
        select: the score of each row from the model's output.
        copies: how often the batch holds each example.

    Returns:
        The output and one gradient for each input, in its shape and dtype.

    Raises:
        ValueError: for several scores a row, or a score that no gradient flows from.
    """
    leaves = [outside_inference(tensor).requires_grad_() for tensor in inputs]
    output = run([leaf.clone() for leaf in leaves], copies)
    scores = select(output)
    check_scores(scores)
    found = torch.autograd.grad(scores, leaves, torch.ones_like(scores), allow_unused=True)
    for position, gradient in enumerate(found):
        if gradient is None:
            which = "inputs" if len(inputs) == 1 else f"inputs[{position}]"
            raise ValueError(f"{which}: it has no influence on the target, or a graph does not lead from one to the other")
    return Gradients(output.detach(), tuple(found))


def check_scores(scores: Tensor) -> None:
    """Refuse scores that are not one number a row with a graph behind it.

    Raises:
        ValueError: says what is wrong with them.
    """
    if scores.dim() > 0 and scores.numel() != scores.shape[0]:
        raise ValueError(
            f"target: scores of shape {tuple(scores.shape)} are several for each example; choose one with target, "
            "an index or a tuple of indices"
        )
    if not scores.requires_grad:
        raise ValueError(
            "forward_func: no gradient leads from its output to what is explained; the way between is not "
            "differentiable, runs under torch.no_grad(), or does not depend on it"
        )
