"""DeepLIFT: differences from a baseline, sent back through the network by the Rescale rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import ChunkTooLarge
from fastsal.explainers.arguments import Baselines, Inputs, examples_of
from fastsal.explainers.base import GradientAttribution, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient._rescale import RescaleMode
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task

Custom = Callable[..., Any]


class DeepLift(GradientAttribution):
    """(x - b) times the multipliers of Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating
    Activation Differences" (ICML 2017), by the Rescale rule.

    The attributions add up to F(x) - F(b) where the network is made of affine layers, functions of one element
    (rectifiers, sigmoids, GELU and the like) and pooling; softmax counts differences between classes. Products of two
    activations and normalisation by the activations' own statistics have no such rule: they keep their gradient, and
    the convergence delta tells by how much the sum is off. Every form of a function is met, as a module (also one that
    is used twice), as a function or in place. Costs one forward and one backward pass of inputs and baselines together.

    >>> maps, delta = fastsal.DeepLift(model).attribute(images, target=classes, return_convergence_delta=True)

    Args:
        model: a torch.nn.Module in Python code, with the examples as dimension 0 of its activations.
        multiply_by_inputs: the factor (x - b); without it the multipliers are returned.
        eps: a difference below it is not divided by; the gradient stands in.

    Raises:
        TypeError: for what is not a module, or has compiled parts whose functions cannot be reached.
    """

    summary = "differences from a baseline, sent back by the Rescale rule"
    cost = "1 forward, 1 backward of two rows an example"
    reads = "functions"

    def __init__(self, model: nn.Module, multiply_by_inputs: bool = True, eps: float = 1e-10) -> None:
        super().__init__(model.module if isinstance(model, nn.DataParallel) else model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
        if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
            raise TypeError("model: it has TorchScript parts, whose functions cannot be reached; pass the Python model")
        self.model = model
        self.eps = eps
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        return True

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Custom | None = None,
        *,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            baselines: compared with: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated for the baselines.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B].
            custom_attribution_func: (multipliers[, inputs[, baselines]]), tuples all, into the attributions.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model that mixes the examples.
        """
        task = self.task(inputs, target, additional_forward_args, baselines=baselines, allow_unused=allow_unused)
        examples_of(task.inputs)

        def run() -> Any:
            starts = task.starts()
            found = self.attributions(task, task.inputs, starts, custom_attribution_func)
            result = task.result(found)
            return (result, task.delta(found, starts)) if return_convergence_delta else result

        return task.once(run)

    def attributions(
        self, task: Task, ends: tuple[Tensor, ...], starts: tuple[Tensor, ...], custom: Custom | None, count: int = 1
    ) -> tuple[Tensor, ...]:
        """Of ``count`` copies of the inputs [count * B, ...] against as many baselines."""
        rows = count * task.examples
        both = tuple(torch.cat(pair) for pair in zip(ends, starts, strict=True))
        with task.context(eager=True), RescaleMode(2 * rows, self.eps):
            try:
                gradients = task.gradients(2 * count, both)
            except ChunkTooLarge as error:
                raise ValueError("model: its output is one score per call; DeepLift needs one per example") from error
        multipliers = tuple(gradient[:rows] for gradient in gradients)
        if custom is not None:
            parameters = len(inspect.signature(custom).parameters)
            found = custom(*(multipliers, ends, starts)[: max(1, min(parameters, 3))])
            return found if isinstance(found, tuple) else (found,)
        if not self._multiply_by_inputs:
            return multipliers
        with torch.no_grad():
            return tuple((x - b) * m for x, b, m in zip(ends, starts, multipliers, strict=True))
