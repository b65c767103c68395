"""Integrated Gradients: the gradient averaged along the straight path from a baseline to the input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.reading import FirstLayer, NotTheOnlyWay
from fastsal.engine.run import is_too_large
from fastsal.explainers.anytime import relative
from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import Estimating, GradientAttribution, attribution
from fastsal.explainers.call import Anytime, Call
from fastsal.explainers.gradient._front import REFUSED, checked_front, front_of, give_up
from fastsal.explainers.gradient._points import Doubled, Sums, Weighted
from fastsal.explainers.gradient.quadrature import checked_rule
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task
from fastsal.ops import path


class IntegratedGradients(Estimating, GradientAttribution):
    """(x - b) times the mean of d target / d input over b + a (x - b), a in [0, 1].

    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks" (ICML 2017), equations 1 and 3. Costs n_steps
    forward and backward passes per example; memory does not grow with n_steps.

    >>> maps, delta = fastsal.IntegratedGradients(model).attribute(
    ...     images, target=classes, return_convergence_delta=True
    ... )

    Args:
        forward_func: module or callable.
        multiply_by_inputs: the factor (x - b); without it the mean gradient is returned.
    """

    summary = "gradient averaged on the path from a baseline"
    cost = "n_steps forward, n_steps backward"
    per_call = "internal_batch_size"
    fixed = exportable = True

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
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        first_layer_once: bool | str = "auto",
        show_progress: bool = False,
        create_graph: bool = False,
        allow_unused: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Call[Any]:
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
            first_layer_once: where the model reads its one input through an affine layer alone (a convolution, a patch
                embedding), run that layer for both ends of the path, which is straight behind it too, and its backward
                for the sum of the gradients: equal up to rounding, which is checked at every point, for every example,
                in every call; else the plain way. ``"auto"``: where it pays; True:
                also where it does not, with an error where it cannot be; False: never.
            show_progress: show a bar.
            create_graph: keep the graph, so that the attribution can be trained through; memory grows with n_steps.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.
            grad_kwargs: further arguments of ``torch.autograd.grad``.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            rows_per_call=internal_batch_size,
            named="internal_batch_size",
            create_graph=create_graph,
            floating=True,
            allow_unused=allow_unused,
            show_progress=show_progress,
        )
        checked_rule(method, n_steps)
        checked_front(first_layer_once, create_graph)
        task.rows_ahead = n_steps * task.examples

        def described(points: Weighted | Doubled) -> Call[Any]:
            return _Path(self, task, points, first_layer_once, grad_kwargs).described(n_steps)

        def anytime() -> Anytime:
            if return_convergence_delta or create_graph:
                raise ValueError("tolerance, deadline: they go without return_convergence_delta and create_graph")
            found = described(Doubled(n_steps)).anytime
            assert found is not None
            return found()

        def run() -> Any:
            result = described(Weighted(method, n_steps)).run()
            return (result, task.delta(task.given.parts(result))) if return_convergence_delta else result

        return Call(task, run, anytime)


class _Path:
    """The sweep along the path: the points of a rule, or ever more of them, behind the first layer where that pays."""

    def __init__(
        self,
        explainer: IntegratedGradients,
        task: Task,
        points: Weighted | Doubled,
        first_layer_once: bool | str,
        grad_kwargs: dict[str, Any] | None,
    ) -> None:
        self._multiplies, self._task, self._points = explainer.multiplies_by_inputs, task, points
        self._grad_kwargs = grad_kwargs
        given = (tensor.dtype for tensor in task.given.tensors if not tensor.is_floating_point())
        self._whole = next((dtype for dtype in given if not dtype.is_complex), None)
        self._explainer, self._must = explainer, first_layer_once is True
        self._front: FirstLayer | None = None
        if not task.create_graph:
            with task.context():
                self._front = front_of(explainer, task, points.total * task.examples, first_layer_once)
        self._change: Tensor | None = None

    def described(self, n_steps: int) -> Call[Any]:
        # A gradient keeps the activations that a plain pass frees; Captum repeats extra tensors along the path.
        chunk_sizes = self._task.chunk_sizes(self._points.total, cost=2, repeats=True)
        chunk_sizes.spread()
        return self._task.sweep(
            self._points.total,
            self.work,
            lambda start, stop, added: self._points.keep(added),
            lambda: self._like(self._attributed(self._points.mean)),
            chunk_sizes=chunk_sizes,
            estimate=self.estimate,
            limit=f"n_steps={n_steps}",
        )

    def work(self, start: int, stop: int) -> Any:
        if self._front is not None:
            try:
                return self._added(start, stop, self._front)
            except NotTheOnlyWay as error:
                if self._must:
                    raise ValueError(REFUSED) from error
                # What the points before came to is as good as any: by the layer's value, so by the inputs too.
                self._points.turn(self._front.pulled)
                self._front = None
                give_up(self._explainer)
        return self._added(start, stop, None)

    def _added(self, start: int, stop: int, front: FirstLayer | None) -> Any:
        """The sums with the gradients of points start .. stop, by the layer's value or the inputs."""
        task = self._task

        def along(begin: Any, end: Tensor, first: int = start) -> Tensor:
            return path.batch(end, self._points.positions(first, stop, end), baseline=begin)

        def last() -> dict[int, Tensor]:
            pairs = zip(task.baselines, task.inputs, strict=True)
            return {place: along(*each, stop - 1) for place, each in enumerate(pairs)}

        ends = zip(task.baselines, task.inputs, strict=True)
        batches = tuple(along(*each) for each in ends) if front is None else (front.at(along),)
        try:
            gradients = task.gradients(
                stop - start,
                batches,
                forward_func=None if front is None else front.behind,
                grad_kwargs=self._grad_kwargs,
                scored=None if front is None else front.check,
                last=None if front is None else last,
            )
        except (RuntimeError, IndexError) as error:
            if self._whole is None or is_too_large(error):
                raise
            raise TypeError(
                f"inputs: {self._whole} is taken as floating point along the path, which the model does not take; "
                "explain what is behind an embedding of ids with LayerIntegratedGradients(model, layer)"
            ) from error
        return self._points.added(gradients, start, stop)

    def _attributed(self, means: Sums) -> tuple[Tensor, ...]:
        if self._front is not None:
            means = [self._front.pulled(means[0]).to(means[0].dtype)]
        return tuple(
            mean * (tensor.to(mean.dtype) - begin) if self._multiplies else mean
            for mean, tensor, begin in zip(means, self._task.inputs, self._task.baselines, strict=True)
        )

    def _like(self, values: tuple[Tensor, ...]) -> Any:
        return self._task.result([each.to(x.dtype) for each, x in zip(values, self._task.inputs, strict=True)])

    def estimate(self, done: int) -> tuple[Any, Any, float, int] | None:
        assert isinstance(self._points, Doubled)
        means = self._points.means(done)
        if means is None:
            return None
        fine, coarse, used = means
        maps = self._attributed(fine)
        if coarse is None:
            return (
                self._like(maps),
                self._like(tuple(torch.full_like(each, torch.inf) for each in maps)),
                math.inf,
                used,
            )
        errors = tuple((a - b).abs() for a, b in zip(maps, self._attributed(coarse), strict=True))
        ratio = relative(maps, errors, centred=False)
        if self._multiplies:
            if self._change is None:
                self._change = -self._task.delta([torch.zeros_like(each) for each in self._task.inputs])
            size = sum(each.flatten(1).abs().sum(1) for each in maps)
            gap = (sum(each.flatten(1).sum(1) for each in maps) - self._change.to(maps[0].dtype)).abs()
            ratio = max(ratio, float((gap / size).where(gap > 0, 0.0 * gap).max()))
        return self._like(maps), self._like(errors), ratio, used
