"""Integrated Gradients: the gradient averaged along the straight path from a baseline to the input."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run import Plan, evaluation
from fastsal.explainers._old import Run, attribute_method, execute, limits_of, scoring
from fastsal.explainers.anytime import relative
from fastsal.explainers.arguments import (
    Baselines,
    Inputs,
    as_arguments,
    as_baselines,
    as_inputs,
    as_result,
    examples_of,
)
from fastsal.explainers.base import Estimating, GradientAttribution
from fastsal.explainers.gradient._front import front_of
from fastsal.explainers.gradient._points import Doubled, Sums, Weighted
from fastsal.explainers.gradient._quadrature import rule
from fastsal.explainers.input_gradient import altered_copies, input_gradients
from fastsal.explainers.scores import Target, tile, tile_target
from fastsal.ops import path


class IntegratedGradients(Estimating, GradientAttribution):
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
        tolerance: float | None = None,
        deadline: float | None = None,
        first_layer_once: bool | str = "auto",
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
            tolerance: stop when the relative error is estimated to be below it, after n_steps at the most, and return
                an :class:`Estimate`. The rule is then the trapezoid's with 2, 3, 5, 9 ... points, each doubling reusing
                all points before; it is at least the completeness gap, and at least what the last doubling changed.
            deadline: stop before so many seconds have passed since the call, and return an :class:`Estimate`.
            first_layer_once: where the model reads its one input through an affine layer alone (a convolution, a patch
                embedding), run that layer for both ends of the path, which is straight behind it too, and its backward
                for the sum of the gradients: equal up to rounding, which is checked. ``"auto"``: where it pays; True:
                also where it does not, with an error where it cannot be; False: never.
            show_progress: show a bar.
            create_graph: keep the graph, so that the attribution can be trained through; memory grows with n_steps.
            grad_kwargs: further arguments of ``torch.autograd.grad``.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        limits = limits_of(tolerance, deadline)
        if limits.estimating and (return_convergence_delta or create_graph):
            raise ValueError("tolerance, deadline: they go without return_convergence_delta and create_graph")
        tensors, given_tuple = as_inputs(inputs)
        # Captum explains integers (an image's bytes) too: the path between them is of numbers with fractions.
        tensors = tuple(t if t.is_floating_point() else t.to(torch.get_default_dtype()) for t in tensors)
        starts = as_baselines(baselines, tensors)
        additional = as_arguments(additional_forward_args)
        # The ladder of points does not use the rule, whose nodes may take longer than the deadline.
        rule(method, 2 if limits.estimating else n_steps)
        if internal_batch_size is not None and internal_batch_size < 1:
            raise ValueError(f"internal_batch_size: {internal_batch_size} is below 1")
        examples, device = examples_of(tensors), tensors[0].device
        batch_size = None if internal_batch_size is None else max(1, internal_batch_size // examples)
        row_bytes = sum(t[:1].numel() * t.element_size() for t in tensors)
        # A gradient keeps the activations that a plain pass frees.
        points = Doubled(n_steps) if limits.estimating else Weighted(method, n_steps)
        plan = Plan(points.total, examples, 2 * row_bytes, device, batch_size, self.forward_func)
        plain = tensors
        if not create_graph:
            plain = tuple(t.detach().clone() if t.is_inference() else t.detach() for t in tensors)

        front = None
        if not create_graph:
            with scoring(self.forward_func):
                front = front_of(self, plain, starts, additional, points.total * examples, first_layer_once)
        elif first_layer_once is True:
            raise ValueError("first_layer_once: it goes without create_graph")

        def step(start: int, stop: int) -> Callable[[], None]:
            count = stop - start
            ends = zip(plain, starts, strict=True) if front is None else [(front.end, front.start)]
            batches = tuple(
                path.batch(tensor, points.positions(start, stop, tensor), baseline=begin) for tensor, begin in ends
            )
            with altered_copies(count):
                gradients = input_gradients(
                    self.forward_func if front is None else front.behind,
                    batches,
                    tuple(tile(value, count, examples) for value in additional),
                    tile_target(target, count, examples),
                    create_graph,
                    grad_kwargs,
                )
            return points.fold(gradients, start, stop)

        def attributed(means: Sums) -> tuple[Tensor, ...]:
            if front is not None:
                means = [front.pulled(means[0]).to(means[0].dtype)]
            return tuple(
                mean * (tensor.to(mean.dtype) - begin) if self._multiply_by_inputs else mean
                for mean, tensor, begin in zip(means, plain, starts, strict=True)
            )

        def like(values: tuple[Tensor, ...]) -> Any:
            return as_result([each.to(tensor.dtype) for each, tensor in zip(values, plain, strict=True)], given_tuple)

        def finish() -> Any:
            assert isinstance(points, Weighted)
            return like(attributed(points.mean))

        change: Tensor | None = None

        def estimate(done: int) -> tuple[Any, Any, float, int] | None:
            nonlocal change
            assert isinstance(points, Doubled)
            means = points.means(done)
            if means is None:
                return None
            fine, coarse, used = means
            maps = attributed(fine)
            if coarse is None:
                return like(maps), like(tuple(torch.full_like(each, torch.inf) for each in maps)), math.inf, used
            errors = tuple((a - b).abs() for a, b in zip(maps, attributed(coarse), strict=True))
            ratio = relative(maps, errors, centred=False)
            if self._multiply_by_inputs:
                none = as_result([torch.zeros_like(each) for each in plain], given_tuple)
                if change is None:
                    change = -self.compute_convergence_delta(none, baselines, tensors, target, additional_forward_args)
                size = sum(each.flatten(1).abs().sum(1) for each in maps)
                gap = (sum(each.flatten(1).sum(1) for each in maps) - change.to(maps[0].dtype)).abs()
                ratio = max(ratio, float((gap / size).where(gap > 0, 0.0 * gap).max()))
            return like(maps), like(errors), ratio, used

        def context() -> contextlib.AbstractContextManager[Any]:
            return _passing(self.forward_func, create_graph)

        name = "Integrated Gradients"
        run = Run(points.total, step, plan, name, show_progress, context, finish, estimate, f"n_steps={n_steps}")
        result = execute(run, limits)
        if not return_convergence_delta:
            return result
        delta = self.compute_convergence_delta(result, baselines, tensors, target, additional_forward_args)
        return result, delta


@contextlib.contextmanager
def _passing(forward_func: Callable[..., Any], create_graph: bool) -> Iterator[None]:
    with evaluation(forward_func), torch.set_grad_enabled(create_graph):
        yield
