"""Gradient SHAP at a layer: expected gradients between noisy inputs and drawn baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.reading import read
from fastsal.explainers.arguments import Inputs, at_least_one
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.gradient_shap import GradientShap
from fastsal.explainers.gradient.samples import Draw, Samples
from fastsal.explainers.layer._along import Groups, Sums, evenly, rows_of
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.scores import Target


class LayerGradientShap(LayerAttribution):
    """Mean of (a(x') - a(b)) times dF/da at b + s (x' - b), for the values a of a layer, or of each of a list.

    x' is the input with noise, b drawn from the baselines and s uniform in [0, 1]: Lundberg, Lee, "A Unified Approach
    to Interpreting Model Predictions" (NeurIPS 2017). Costs n_samples forward and backward passes per example, as many
    forward passes of the baselines if these are several, and of the inputs where there is noise; memory does not grow
    with n_samples.

    >>> baselines = torch.zeros(1, *images.shape[1:])
    >>> maps = fastsal.LayerGradientShap(model, "last").attribute(images, baselines, n_samples=10, target=classes)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules or its dotted name, or a list of these.
        device_ids: accepted for Captum's sake.
        multiply_by_inputs: the factor a(x') - a(b); without it the mean gradient is returned.
    """

    several = True
    summary = "gradient by a layer between noisy inputs and drawn baselines, times its difference"
    cost = "n_samples forward, n_samples backward to the layer, n_samples forward"
    per_call = "perturbations_per_eval"
    _draw: Draw | None = None

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return GradientShap.defaults(inputs)

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
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
        attribute_to_layer_input: bool = False,
        *,
        seed: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value, a tuple where it has several tensors; a list for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            baselines: a distribution: a tensor [rows, ...], a tuple of one per input, or a function (of nothing or of
                the inputs) that returns one.
            n_samples: draws per example.
            stdevs: standard deviation of the noise: a number, a tensor that broadcasts, or a tuple of one per input.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            return_convergence_delta: also return sum(attribution) - (F(x') - F(b)) of each draw, [B * n_samples],
                example by example; a list for a list.
            attribute_to_layer_input: to the layer's input rather than its output.
            seed: chooses the draws; None draws it from torch's global generator.
            perturbations_per_eval: draws per model call; chosen from memory when None.
            show_progress: show a bar.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer that the target does not depend on.
        """
        task = self.task(
            inputs, target, additional_forward_args, per_call=perturbations_per_eval, show_progress=show_progress
        )
        n_samples = at_least_one("n_samples", n_samples)
        samples = Samples(task, inputs, baselines, n_samples, stdevs, seed, self._draw)
        sums = Sums()
        deltas: list[list[Tensor]] = []
        of_inputs: list[list[tuple[Tensor, ...]]] = []
        of_baselines: list[list[tuple[Tensor, ...]]] = []

        def values(count: int, batches: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
            extra = task.repeated(task.additional, count)
            layers = self.layers(task)
            found = read(task.forward_func, layers, batches, extra, at_input=attribute_to_layer_input, every_use=True)
            return rows_of(found, count * task.examples).values

        def differences(count: int, ends: tuple[Tensor, ...], starts: tuple[Tensor, ...]) -> Groups:
            if samples.noisy:
                high = values(count, ends)
            else:
                # Without noise every sample ends in the input.
                if not of_inputs:
                    of_inputs.append(values(1, task.inputs))
                high = [tuple(_repeated(t, count) for t in tensors) for tensors in of_inputs[0]]
            if samples.rows > 1:
                low = values(count, starts)
            else:
                # And begins in the one baseline.
                if not of_baselines:
                    of_baselines.append(values(1, tuple(start[: task.examples] for start in starts)))
                low = [tuple(_repeated(t, count) for t in tensors) for tensors in of_baselines[0]]
            return [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(high, low, strict=True)]

        def work(start: int, stop: int) -> tuple[Any, list[Tensor]]:
            count = stop - start
            ends, starts, points = samples(start, stop)
            reading = self.read_copies(task, count, points, attribute_to_layer_input)
            found = [list(tensors) for tensors in rows_of(reading, count * task.examples).gradients]
            if self._multiply_by_inputs:
                apart = differences(count, ends, starts)
                found = [[g * d for g, d in zip(*pair, strict=True)] for pair in zip(found, apart, strict=True)]
            off = []
            if return_convergence_delta:
                off = [task.delta(tensors, starts, ends, count).detach().reshape(count, -1) for tensors in found]
            return sums.added(found, lambda like: evenly(count)(like) / n_samples), off

        def keep(start: int, stop: int, found: tuple[Any, list[Tensor]]) -> None:
            sums.keep(found[0])
            deltas.append(found[1])

        def finish() -> Any:
            result = self.result(sums.values)
            if not return_convergence_delta:
                return result
            each = [torch.cat(parts).T.reshape(-1) for parts in zip(*deltas, strict=True)]
            return result, each if isinstance(self.layer, list) else each[0]

        return task.sweep(n_samples, work, keep, finish, chunk_sizes=task.chunk_sizes(n_samples, cost=2))


def _repeated(value: Tensor, count: int) -> Tensor:
    return value.repeat(count, *[1] * (value.dim() - 1))
