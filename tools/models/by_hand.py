"""What cells are compared with: autograd, hooks and loops written here, in plain PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.models.subject import Subject


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module's flag comes back."""
    flags = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag


def output_of(subject: Subject, inputs: Tensor | None = None) -> Any:
    """The model's output in evaluation mode."""
    with evaluating(subject.model), torch.no_grad():
        return subject.model((subject.inputs if inputs is None else inputs).clone(), *subject.extra)


def scores(subject: Subject, inputs: Tensor | None = None) -> Tensor:
    """Scores [B] in evaluation mode."""
    return subject.of(output_of(subject, inputs))


def gradient(subject: Subject, inputs: Tensor | None = None, model: Callable[..., Any] | None = None) -> Tensor:
    """The scores' gradient by the inputs."""
    if inputs is None and model is None:
        found: Tensor = subject.once("gradient", lambda: gradient(subject, subject.inputs))
        return found.clone()
    x = (subject.inputs if inputs is None else inputs).detach().clone().requires_grad_()
    with evaluating(subject.model), torch.enable_grad():
        score = subject.of((model or subject.model)(x.clone(), *subject.extra))
        (by_inputs,) = torch.autograd.grad(score.sum(), x)
    return by_inputs


def leaves(output: Any) -> list[Tensor]:
    """The floating-point tensors of an output."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict) or hasattr(output, "items"):
        return [leaf for _, value in output.items() for leaf in leaves(value)]
    if isinstance(output, (list, tuple)):
        return [leaf for value in output for leaf in leaves(value)]
    return []


def read(subject: Subject, layer: nn.Module, target: Any = None) -> list[tuple[Tensor, Tensor | None]]:
    """(value, gradient of the scores) of each run of a layer, by a hook of our own."""
    runs: list[Tensor] = []

    def keep(_part: nn.Module, _inputs: Any, output: Any) -> Any:
        runs.append(output if isinstance(output, Tensor) else leaves(output)[0])
        # What follows may write into it.
        return output.clone() if isinstance(output, Tensor) else output

    x = subject.inputs.detach().clone().requires_grad_()
    with evaluating(subject.model), torch.enable_grad():
        hook = layer.register_forward_hook(keep)
        try:
            score = subject.of(subject.model(x.clone(), *subject.extra), target)
        finally:
            hook.remove()
        gradients = torch.autograd.grad(score.sum(), runs, allow_unused=True)
    return [(value.detach(), grad) for value, grad in zip(runs, gradients, strict=True)]


def stretched(raw: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, 1, *size], in [0, 1], of a map [B, *layer]: positive parts, linear resizing with half-pixel centres."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    resized = F.interpolate(raw.clamp_min(0)[:, None], size=size, mode=mode, align_corners=False)
    low, high = resized.flatten(1).amin(1), resized.flatten(1).amax(1)
    shape = (-1, *[1] * (resized.dim() - 1))
    spread = (high - low).reshape(shape)
    return torch.where(spread > 0, (resized - low.reshape(shape)) / spread.where(spread > 0, 1.0), 0.0 * resized)
