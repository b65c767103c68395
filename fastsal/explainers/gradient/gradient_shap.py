"""Gradient SHAP: expected gradients between noisy inputs and baselines drawn from a distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import Plan, evaluation
from fastsal.explainers._old import attribute_method, could_be_per_example, sweep
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, as_result, at_least_one, examples_of
from fastsal.explainers.base import GradientAttribution
from fastsal.explainers.gradient._distribution import Draws, distribution_of
from fastsal.explainers.gradient.noise_tunnel import deviations_of
from fastsal.explainers.input_gradient import altered_copies, input_gradients
from fastsal.explainers.scores import Target, tile, tile_target
from fastsal.explainers.seeds import generator
from fastsal.ops import noise


class GradientShap(GradientAttribution):
    """Mean of (x' - b) times the gradient at b + a (x' - b), with x' = x + noise, b drawn from the baselines and a
    uniform in [0, 1].

    Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions" (NeurIPS 2017); Erion et al., "Improving
    performance of deep learning models with axiomatic attribution priors and expected gradients" (2021), equation 3.
    Costs n_samples forward and backward passes per example; memory does not grow with n_samples.

    Args:
        forward_func: module or callable.
        multiply_by_inputs: the factor (x' - b); without it the mean gradient is returned.
    """

    def __init__(self, forward_func: Callable[..., Any], multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
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
    ) -> Any:
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

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        tensors, given_tuple = as_inputs(inputs)
        examples, device = examples_of(tensors), tensors[0].device
        n_samples = at_least_one("n_samples", n_samples)
        if perturbations_per_eval is not None:
            perturbations_per_eval = at_least_one("perturbations_per_eval", perturbations_per_eval)
        deviations = deviations_of(stdevs, len(tensors))
        additional = as_arguments(additional_forward_args)
        if perturbations_per_eval is None and could_be_per_example(additional, examples):
            perturbations_per_eval = 1
        random = generator(seed)
        seeds = torch.randint(0, 2**62, (len(tensors),), generator=random, device="cpu").tolist()
        shares = torch.rand(n_samples, examples, generator=random, dtype=torch.float64, device="cpu")
        draws = Draws(distribution_of(baselines, inputs), n_samples, examples, random)
        plain = tensors if create_graph else tuple(t.detach() for t in tensors)
        row_bytes = sum(t[:1].numel() * t.element_size() for t in plain)
        plan = Plan(n_samples, examples, 2 * row_bytes, device, perturbations_per_eval, self.forward_func)
        state: list[Tensor] = []
        deltas: list[Tensor] = []

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            ends = tuple(
                noise.batch(tensor, start, stop, std=deviation, seed=key)
                for tensor, deviation, key in zip(plain, deviations, seeds, strict=True)
            )
            starts = tuple(rows.to(end) for rows, end in zip(draws(start, stop), ends, strict=True))
            points = tuple(
                begin + _column(shares[start:stop], end) * (end - begin)
                for begin, end in zip(starts, ends, strict=True)
            )
            extra = tuple(tile(value, count, examples) for value in additional)
            wanted = tile_target(target, count, examples)
            with altered_copies(count):
                found = input_gradients(self.forward_func, points, extra, wanted, create_graph)
            if self._multiply_by_inputs:
                found = tuple((e - b) * g for e, b, g in zip(ends, starts, found, strict=True))
            folded = [
                noise.fold(part, count, start=start, partial=state[i] if state else None)
                for i, part in enumerate(found)
            ]
            delta = None
            if return_convergence_delta:
                delta = self.compute_convergence_delta(found, starts, ends, wanted, extra)

            def commit() -> None:
                state[:] = folded
                if delta is not None:
                    deltas.append(delta.detach().reshape(count, -1))

            return commit

        with evaluation(self.forward_func), torch.set_grad_enabled(create_graph):
            sweep(n_samples, step, plan, show_progress=show_progress, description="Gradient SHAP")
            results = [moments[0].to(tensor.dtype) for moments, tensor in zip(state, plain, strict=True)]
        result = as_result(results, given_tuple)
        return (result, torch.cat(deltas).T.reshape(-1)) if return_convergence_delta else result


def _column(shares: Tensor, like: Tensor) -> Tensor:
    """Shares [n, B] as [n * B, 1, ...]."""
    return shares.to(like).reshape(-1, *[1] * (like.dim() - 1))
