"""DeepLIFT: differences from a baseline, sent back through the network by the Rescale rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import ChunkTooLarge, evaluation
from fastsal.explainers._old import attribute_method
from fastsal.explainers.arguments import (
    Baselines,
    Inputs,
    as_arguments,
    as_inputs,
    as_result,
    baseline_inputs,
    examples_of,
)
from fastsal.explainers.base import GradientAttribution
from fastsal.explainers.gradient._rescale import RescaleMode
from fastsal.explainers.input_gradient import altered_copies, input_gradients
from fastsal.explainers.scores import Target, tile, tile_target

Custom = Callable[..., Any]


class DeepLift(GradientAttribution):
    """(x - b) times the multipliers of Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating
    Activation Differences" (ICML 2017), by the Rescale rule.

    The attributions add up to F(x) - F(b) where the network is made of affine layers, functions of one element
    (rectifiers, sigmoids, GELU and the like) and pooling; softmax counts differences between classes. Products of two
    activations and normalisation by the activations' own statistics have no such rule: they keep their gradient, and
    the convergence delta tells by how much the sum is off. Every form of a function is met, as a module (also one that
    is used twice), as a function or in place. Costs one forward and one backward pass of inputs and baselines together.

    Args:
        model: a torch.nn.Module in Python code, with the examples as dimension 0 of its activations.
        multiply_by_inputs: the factor (x - b); without it the multipliers are returned.
        eps: a difference below it is not divided by; the gradient stands in.

    Raises:
        TypeError: for what is not a module, or has compiled parts whose functions cannot be reached.
    """

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

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Custom | None = None,
    ) -> Any:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            baselines: compared with: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated for the baselines.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B].
            custom_attribution_func: (multipliers[, inputs[, baselines]]), tuples all, into the attributions.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model that mixes the examples.
        """
        tensors, given_tuple = as_inputs(inputs)
        examples_of(tensors)
        plain = tuple(tensor.detach() for tensor in tensors)
        starts = baseline_inputs(baselines, plain)
        found = self._attributions(
            plain, starts, target, as_arguments(additional_forward_args), custom_attribution_func
        )
        result = as_result(found, given_tuple)
        if not return_convergence_delta:
            return result
        return result, self.compute_convergence_delta(found, starts, plain, target, additional_forward_args)

    def _attributions(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        target: Target,
        additional: tuple[Any, ...],
        custom: Custom | None,
    ) -> tuple[Tensor, ...]:
        """Of inputs [B, ...] against baselines [B, ...]."""
        examples = inputs[0].shape[0]
        both = tuple(torch.cat(pair) for pair in zip(inputs, baselines, strict=True))
        extra = tuple(tile(value, 2, examples) for value in additional)
        with evaluation(self.forward_func, eager=True), altered_copies(2), RescaleMode(2 * examples, self.eps):
            try:
                gradients = input_gradients(self.forward_func, both, extra, tile_target(target, 2, examples))
            except ChunkTooLarge as error:
                raise ValueError("model: its output is one score per call; DeepLift needs one per example") from error
        multipliers = tuple(gradient[:examples] for gradient in gradients)
        if custom is not None:
            count = len(inspect.signature(custom).parameters)
            found = custom(*(multipliers, inputs, baselines)[: max(1, min(count, 3))])
            return found if isinstance(found, tuple) else (found,)
        if not self._multiply_by_inputs:
            return multipliers
        with torch.no_grad():
            return tuple((x - b) * m for x, b, m in zip(inputs, baselines, multipliers, strict=True))
