"""Gradient SHAP: expected gradients between noisy inputs and baselines drawn from a distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs, at_least_one
from fastsal.explainers.base import GradientAttribution, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.samples import Samples
from fastsal.explainers.scores import Target
from fastsal.ops import noise


class GradientShap(GradientAttribution):
    """Mean of (x' - b) times the gradient at b + a (x' - b), with x' = x + noise, b drawn from the baselines and a
    uniform in [0, 1].

    Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions" (NeurIPS 2017); Erion et al., "Improving
    performance of deep learning models with axiomatic attribution priors and expected gradients" (2021), equation 3.
    Costs n_samples forward and backward passes per example; memory does not grow with n_samples.

    >>> baselines = torch.zeros(1, *images.shape[1:])
    >>> maps = fastsal.GradientShap(model).attribute(images, baselines, n_samples=10, target=classes)

    Args:
        forward_func: module or callable.
        multiply_by_inputs: the factor (x' - b); without it the mean gradient is returned.
    """

    summary = "gradient averaged between noisy inputs and drawn baselines, times their difference"
    cost = "n_samples forward, n_samples backward"
    per_call = "perturbations_per_eval"

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"baselines": tuple(torch.zeros_like(tensor[:1]) for tensor in inputs), "n_samples": 50, "seed": 0}

    def __init__(self, forward_func: Callable[..., Any], multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
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
        baselines: Any,
        n_samples: int = 5,
        stdevs: Any = 0.0,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        seed: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        create_graph: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            baselines: a distribution: a tensor [rows, ...], a tuple of one per input, or a function (of nothing or of
                the inputs) that returns one.
            n_samples: draws per example.
            stdevs: standard deviation of the noise: a number, a tensor that broadcasts, or a tuple of one per input.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            return_convergence_delta: also return sum(attribution) - (F(x') - F(b)) of each draw, [B * n_samples],
                example by example.
            seed: chooses the draws; None draws it from torch's global generator.
            perturbations_per_eval: draws per model call; chosen from memory when None.
            show_progress: show a bar.
            create_graph: keep the graph, so that the attribution can be trained through; memory grows with n_samples.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            per_call=perturbations_per_eval,
            create_graph=create_graph,
            allow_unused=allow_unused,
            show_progress=show_progress,
        )
        n_samples = at_least_one("n_samples", n_samples)
        samples = Samples(task, inputs, baselines, n_samples, stdevs, seed)
        state: list[Tensor] = []
        deltas: list[Tensor] = []

        def work(start: int, stop: int) -> tuple[list[Tensor], Tensor | None]:
            count = stop - start
            ends, starts, points = samples(start, stop)
            found = task.gradients(count, points)
            if self._multiply_by_inputs:
                found = tuple((e - b) * g for e, b, g in zip(ends, starts, found, strict=True))
            folded = [
                noise.fold(part, count, start=start, partial=state[i] if state else None)
                for i, part in enumerate(found)
            ]
            if not return_convergence_delta:
                return folded, None
            return folded, task.delta(found, starts, ends, count).detach().reshape(count, -1)

        def keep(start: int, stop: int, found: tuple[list[Tensor], Tensor | None]) -> None:
            state[:], delta = found
            if delta is not None:
                deltas.append(delta)

        def finish() -> Any:
            result = task.result([m[0].to(tensor.dtype) for m, tensor in zip(state, task.inputs, strict=True)])
            return (result, torch.cat(deltas).T.reshape(-1)) if return_convergence_delta else result

        return task.sweep(n_samples, work, keep, finish, chunk_sizes=task.chunk_sizes(n_samples, cost=2))
