"""Neuron Conductance: the integrated gradient of the input that flows through a neuron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.reading import values_at
from fastsal.engine.run import input_gradients, run
from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.quadrature import checked_rule, rule_on
from fastsal.explainers.layer.neuron_attribution import (
    NeuronAttribution,
    Selector,
    checked_selector,
    last_use,
    selection_weights,
)
from fastsal.explainers.reached import Unreached, reached
from fastsal.explainers.scores import Target
from fastsal.ops import accumulation_dtype, path


class NeuronConductance(NeuronAttribution):
    """(x - b) times the mean of dF/da da/dx over the path from a baseline to the input, for a value a of a layer.

    Dhamdhere, Sundararajan, Yan, "How Important Is a Neuron?" (ICLR 2019), equation 1. Of several chosen values it is
    the sum of their conductances. Costs n_steps forward passes, and backward passes to the layer and on to the input;
    memory does not grow with n_steps.

    >>> maps = fastsal.NeuronConductance(model, "last").attribute(images, (3, 0, 0), target=classes, n_steps=20)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
        multiply_by_inputs: the factor (x - b); without it the mean gradient is returned.
    """

    summary = "gradient through a layer's value, averaged along the path from a baseline"
    cost = "n_steps forward, n_steps backward"
    per_call = "internal_batch_size"

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

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: Selector,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        show_progress: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them (integers are taken as floating point).
            neuron_selector: the neuron: an int or a tuple of ints that index the layer's value without its batch; with
                slices in the tuple the chosen together; or a function of the value (of the tuple of tensors where it
                has several) that returns one number per example, [B], of which the derivative chooses.
            baselines: where the path starts: None (0), a number, a tensor that broadcasts, or a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated along the path.
            n_steps: points of the path.
            method: quadrature rule: gausslegendre, riemann_left, riemann_right, riemann_middle, riemann_trapezoid.
            internal_batch_size: rows per model call; chosen from memory when None.
            attribute_to_neuron_input: a neuron of the layer's input rather than of its output.
            grad_kwargs: further arguments of ``torch.autograd.grad``, to the layer.
            show_progress: show a bar.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a neuron that does not depend on the inputs.
        """
        checked_selector(neuron_selector)
        checked_rule(method, n_steps)
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            rows_per_call=internal_batch_size,
            named="internal_batch_size",
            floating=True,
            show_progress=show_progress,
            allow_unused=allow_unused,
        )
        means: list[Tensor] = []

        def through(count: int, *arguments: Any) -> Tensor:
            """Whose gradient by the inputs is what flows through the neuron, row by row."""
            layer = self.resolved(arguments)
            with values_at([layer], at_input=attribute_to_neuron_input) as found:
                output = run(task.forward_func, arguments)
            values: tuple[Tensor, ...] = last_use(found)
            chosen = selection_weights(values, neuron_selector)
            pairs = [(value, weight) for value, weight in zip(values, chosen, strict=True) if value.requires_grad]
            if not pairs:
                raise Unreached("neuron_selector: the neuron does not depend on the inputs through autograd")
            options = {"retain_graph": True, "allow_unused": True, **(grad_kwargs or {})}
            flows = torch.autograd.grad(task.select(count)(output).sum(), [value for value, _ in pairs], **options)
            rows = count * task.examples
            total = pairs[0][0].new_zeros(rows)
            for (value, weight), flow in zip(pairs, flows, strict=True):
                if flow is not None:
                    total = total + (value * weight * flow.detach()).reshape(rows, -1).sum(1)
            return total

        def work(start: int, stop: int) -> list[Tensor]:
            count = stop - start
            rules = [rule_on(method, n_steps, accumulation_dtype(t.dtype), t.device) for t in task.inputs]
            points = tuple(
                path.batch(tensor, rule[0][start:stop], baseline=begin)
                for tensor, rule, begin in zip(task.inputs, rules, task.baselines, strict=True)
            )
            found = input_gradients(
                lambda *arguments: through(count, *arguments),
                points,
                task.repeated(task.additional, count),
                lambda flow: flow,
            )
            gradients = reached(task, found, points)
            return [
                path.fold(gradient, rule[1][start:stop], partial=means[index] if means else None)
                for index, (gradient, rule) in enumerate(zip(gradients, rules, strict=True))
            ]

        def keep(start: int, stop: int, found: list[Tensor]) -> None:
            means[:] = found

        def finish() -> Any:
            parts = [
                mean * (tensor.to(mean.dtype) - begin) if self._multiply_by_inputs else mean
                for mean, tensor, begin in zip(means, task.inputs, task.baselines, strict=True)
            ]
            return task.result([part.to(tensor.dtype) for part, tensor in zip(parts, task.inputs, strict=True)])

        chunk_sizes = task.chunk_sizes(n_steps, cost=2, repeats=True)
        return task.sweep(n_steps, work, keep, finish, chunk_sizes=chunk_sizes)
