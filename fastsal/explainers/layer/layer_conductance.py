"""Layer Conductance: the integrated gradient that flows through each value of a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.engine.reading import Reading
from fastsal.explainers.arguments import Baselines, Inputs, at_least_one
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.quadrature import checked_rule
from fastsal.explainers.layer._along import Sums, evenly, on_path
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.scores import Target


class LayerConductance(LayerAttribution):
    """Sum over a path of dF/da times the step of a, for the values a of a layer, or of each of a list of layers.

    Dhamdhere, Sundararajan, Yan, "How Important Is a Neuron?" (ICLR 2019), definition 1, with steps of the layer's
    values in the place of the chain rule: Shrikumar, Su, Kundaje, "Computationally Efficient Measures of Internal
    Neuron Importance" (2018). The path is that of Integrated Gradients, from a baseline to the input. Costs
    n_steps + 1 forward passes, and backward passes to the first layer; memory does not grow with n_steps.

    >>> maps = fastsal.LayerConductance(model, "last").attribute(images, target=classes, n_steps=20)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules or its dotted name, or a list of these.
        device_ids: accepted for Captum's sake.
    """

    several = True
    summary = "what flows through each value of a layer, along the path from a baseline"
    cost = "n_steps + 1 forward, as many backward to the layer"
    per_call = "internal_batch_size"

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

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
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        show_progress: bool = False,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value, a tuple where it has several tensors; a list for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them (integers are taken as floating point).
            baselines: where the path starts: None (0), a number, a tensor that broadcasts, or a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated along the path.
            n_steps: steps of the path, between n_steps + 1 points.
            method: rule whose points they are: gausslegendre, riemann_left, riemann_right, riemann_middle,
                riemann_trapezoid.
            internal_batch_size: rows per model call; chosen from memory when None.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B]; a list for a list.
            attribute_to_layer_input: to the layer's input rather than its output.
            grad_kwargs: further arguments of ``torch.autograd.grad``.
            show_progress: show a bar.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer that the target does not depend on.
        """
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            rows_per_call=internal_batch_size,
            named="internal_batch_size",
            floating=True,
            show_progress=show_progress,
        )
        checked_rule(method, at_least_one("n_steps", n_steps))
        steps = _Steps(task.examples)

        def finish() -> Any:
            found = steps.sums.values
            return self.with_delta(task, found) if return_convergence_delta else self.result(found)

        rule = method, n_steps + 1
        return on_path(self, task, rule, attribute_to_layer_input, grad_kwargs, steps.added, steps.keep, finish)


class _Steps:
    """The sum over steps: the gradient at a point times how far the layer's value goes to the next."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._last: list[list[tuple[Tensor, Tensor]]] = []
        self.sums = Sums()

    def added(self, reading: Reading, start: int, stop: int) -> Any:
        """(sums with the steps that end in these points, values and gradients at the last point)."""
        rows = self._examples
        terms: list[list[Tensor]] = []
        last: list[list[tuple[Tensor, Tensor]]] = []
        for index, pair in enumerate(zip(reading.values, reading.gradients, strict=True)):
            terms.append([])
            last.append([])
            for place, (value, gradient) in enumerate(zip(*pair, strict=True)):
                last[-1].append((value[-rows:].clone(), gradient[-rows:].clone()))
                if self._last:
                    before = self._last[index][place]
                    value, gradient = torch.cat([before[0], value]), torch.cat([before[1], gradient])
                terms[-1].append(gradient[:-rows] * (value[rows:] - value[:-rows]))
        count = stop - start - (start == 0)
        return (self.sums.added(terms, evenly(count)) if count else None), last

    def keep(self, added: Any) -> None:
        """Take over what :meth:`added` returned."""
        sums, self._last = added
        if sums is not None:
            self.sums.keep(sums)
