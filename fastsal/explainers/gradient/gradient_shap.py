"""Gradient SHAP: expected gradients between noisy inputs and baselines drawn from a distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.anytime import relative
from fastsal.explainers.arguments import Inputs, at_least_one
from fastsal.explainers.base import Estimating, GradientAttribution, attribution
from fastsal.explainers.call import Anytime, Call
from fastsal.explainers.gradient._replicates import Means, Replicates
from fastsal.explainers.gradient.samples import Draw, Samples
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task


class GradientShap(Estimating, GradientAttribution):
    """Mean of (x' - b) times the gradient at b + a (x' - b), with x' = x + noise, b drawn from the baselines and a
    uniform in [0, 1].

    Each draw is as said; together they are spread evenly over the path, and meet the baselines equally often.

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
    _draw: Draw | None = None

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
        samples = Samples(task, inputs, baselines, n_samples, stdevs, seed, self._draw)

        def described(groups: int) -> Call[Any]:
            return _Sweep(task, samples, self._multiply_by_inputs, groups, return_convergence_delta).described(
                n_samples
            )

        def anytime() -> Anytime:
            if return_convergence_delta or create_graph:
                raise ValueError("tolerance, deadline: they go without return_convergence_delta and create_graph")
            found = described(samples.groups).anytime
            assert found is not None
            return found()

        return Call(task, lambda: described(1).run(), anytime)


class _Sweep:
    """The sweep over the samples, which keeps their means, and their deltas."""

    def __init__(self, task: Task, samples: Samples, multiplies: bool, groups: int, with_delta: bool) -> None:
        self._task, self._samples, self._multiplies, self._with_delta = task, samples, multiplies, with_delta
        self._found = Replicates(groups)
        self._deltas: list[Tensor] = []

    def described(self, n_samples: int) -> Call[Any]:
        return self._task.sweep(
            n_samples,
            self.work,
            self.keep,
            lambda: self.finish(n_samples),
            chunk_sizes=self._task.chunk_sizes(n_samples, cost=2),
            estimate=self.estimate,
            limit=f"n_samples={n_samples}",
        )

    def work(self, start: int, stop: int) -> tuple[Means, Tensor | None]:
        count = stop - start
        ends, starts, points = self._samples(start, stop)
        found = self._task.gradients(count, points)
        if self._multiplies:
            found = tuple((e - b) * g for e, b, g in zip(ends, starts, found, strict=True))
        means = self._found.added(found, start, stop)
        if not self._with_delta:
            return means, None
        return means, self._task.delta(found, starts, ends, count).detach().reshape(count, -1)

    def keep(self, start: int, stop: int, found: tuple[Means, Tensor | None]) -> None:
        means, delta = found
        self._found.keep(means)
        if delta is not None:
            self._deltas.append(delta)

    def finish(self, n_samples: int) -> Any:
        result = self._like(self._found.means(n_samples))
        return (result, torch.cat(self._deltas).T.reshape(-1)) if self._with_delta else result

    def estimate(self, done: int) -> tuple[Any, Any, float, int]:
        means, errors = tuple(self._found.means(done)), tuple(self._found.errors(done))
        return self._like(means), self._like(errors), relative(means, errors), done

    def _like(self, values: Sequence[Tensor]) -> Any:
        return self._task.result([v.to(tensor.dtype) for v, tensor in zip(values, self._task.inputs, strict=True)])
