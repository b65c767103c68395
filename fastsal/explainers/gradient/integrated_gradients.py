"""Integrated Gradients: the gradient averaged along the straight path from a baseline to the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine import Plan, evaluation, sweep
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import (
    Baselines,
    GradientAttribution,
    Inputs,
    Target,
    as_arguments,
    as_baselines,
    as_inputs,
    as_result,
    examples_of,
    tile,
    tile_target,
)
from fastsal.explainers.gradient._input_gradient import altered_copies, input_gradients
from fastsal.explainers.gradient._quadrature import rule, rule_on
from fastsal.ops import path


class IntegratedGradients(GradientAttribution):
    """(x - b) times the mean of d target / d input over b + a (x - b), a in [0, 1].

    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks" (ICML 2017), equations 1 and 3. Costs n_steps
    forward and backward passes per example; memory does not grow with n_steps.

    Args:
        forward_func: module or callable.
        multiply_by_inputs: the factor (x - b); without it the mean gradient is returned.
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
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        show_progress: bool = False,
        create_graph: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them (integers are taken as floating point).
            baselines: where the path starts: None (0), a number, a tensor that broadcasts, or a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated along the path.
            n_steps: points of the path.
            method: quadrature rule: gausslegendre, riemann_left, riemann_right, riemann_middle, riemann_trapezoid.
            internal_batch_size: rows per model call; chosen from memory when None.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B].
            show_progress: show a bar.
            create_graph: keep the graph, so that the attribution can be trained through; memory grows with n_steps.
            grad_kwargs: further arguments of ``torch.autograd.grad``.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        tensors, given_tuple = as_inputs(inputs)
        # Captum explains integers (an image's bytes) too: the path between them is of numbers with fractions.
        tensors = tuple(t if t.is_floating_point() else t.to(torch.get_default_dtype()) for t in tensors)
        starts = as_baselines(baselines, tensors)
        additional = as_arguments(additional_forward_args)
        rule(method, n_steps)
        if internal_batch_size is not None and internal_batch_size < 1:
            raise ValueError(f"internal_batch_size: {internal_batch_size} is below 1")
        examples, device = examples_of(tensors), tensors[0].device
        batch_size = None if internal_batch_size is None else max(1, internal_batch_size // examples)
        row_bytes = sum(t[:1].numel() * t.element_size() for t in tensors)
        # A gradient keeps the activations that a plain pass frees.
        plan = Plan(n_steps, examples, 2 * row_bytes, device, batch_size, self.forward_func)
        plain = tensors
        if not create_graph:
            plain = tuple(t.detach().clone() if t.is_inference() else t.detach() for t in tensors)
        sums: list[Tensor | None] = [None] * len(tensors)

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            batches, shares = [], []
            for tensor, begin in zip(plain, starts, strict=True):
                dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
                positions, weights = rule_on(method, n_steps, dtype, device)
                shares.append(weights[start:stop])
                batches.append(path.batch(tensor, positions[start:stop], baseline=begin))
            with altered_copies(count):
                gradients = input_gradients(
                    self.forward_func,
                    tuple(batches),
                    tuple(tile(value, count, examples) for value in additional),
                    tile_target(target, count, examples),
                    create_graph,
                    grad_kwargs,
                )
            added = [
                path.fold(gradient, share, partial=partial)
                for gradient, share, partial in zip(gradients, shares, sums, strict=True)
            ]

            def commit() -> None:
                sums[:] = added

            return commit

        with evaluation(self.forward_func), torch.set_grad_enabled(create_graph):
            sweep(n_steps, step, plan, show_progress=show_progress, description="Integrated Gradients")
            results = []
            for total, tensor, begin in zip(sums, plain, starts, strict=True):
                assert total is not None
                factor = tensor.to(total.dtype) - begin if self._multiply_by_inputs else 1
                results.append((factor * total).to(tensor.dtype))
        result = as_result(results, given_tuple)
        if not return_convergence_delta:
            return result
        delta = self.compute_convergence_delta(result, baselines, tensors, target, additional_forward_args)
        return result, delta
