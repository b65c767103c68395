"""Layer Integrated Gradients: the path between a layer's values at the baseline and at the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastsal.engine.reading import read, replaced
from fastsal.engine.run import calling
from fastsal.engine.run import run as run_model
from fastsal.explainers.arguments import Baselines, Inputs, examples_of
from fastsal.explainers.base import attribution, describe
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.integrated_gradients import IntegratedGradients
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.scores import Target


class LayerIntegratedGradients(LayerAttribution):
    """Integrated Gradients of the part of the model after a layer, or after a list of layers jointly.

    The path runs from the layer's value at the baseline to that at the input, which explains inputs that have no
    gradient themselves, such as the words behind an embedding. Costs n_steps forward and backward passes per example
    and two forward passes.

    >>> maps = fastsal.LayerIntegratedGradients(model, "last").attribute(images, target=classes, n_steps=20)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules or its dotted name, or a list of these.
        device_ids: accepted for Captum's sake.
        multiply_by_inputs: the factor (value - baseline value); without it the mean gradient is returned.
    """

    several = True
    summary = "Integrated Gradients behind a layer"
    cost = "n_steps forward, n_steps backward, 2 forward"
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
        create_graph: bool = False,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value, a tuple where it has several tensors; a list for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them, of any dtype.
            baselines: of the inputs: None (0), a number, a tensor that broadcasts, or a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated along the path.
            n_steps: points of the path.
            method: quadrature rule: gausslegendre, riemann_left, riemann_right, riemann_middle, riemann_trapezoid.
            internal_batch_size: rows per model call; chosen from memory when None.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B].
            attribute_to_layer_input: to the layer's input rather than its output.
            grad_kwargs: further arguments of ``torch.autograd.grad``.
            show_progress: show a bar.
            create_graph: keep the graph of the part after the layer, so that the attribution can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above, a layer that does not run, or one whose value
                does not have the examples as dimension 0.
        """
        task = self.task(inputs, target, additional_forward_args, baselines=baselines)
        examples_of(task.inputs)

        def run() -> Any:
            layers = self.layers(task)
            values = [
                read(task.forward_func, layers, each, task.additional, at_input=attribute_to_layer_input).values
                for each in (task.inputs, task.starts())
            ]
            sizes = [len(value) for value in values[0]]
            ends, starts = (tuple(tensor for value in each for tensor in value) for each in values)
            for end in ends:
                if end.dim() == 0 or end.shape[0] != task.examples or not end.is_floating_point():
                    raise ValueError(
                        f"layer: its value {end.dtype} of shape {tuple(end.shape)} is not floating point with the "
                        f"{task.examples} examples as dimension 0; choose another layer"
                    )

            @calling(task.forward_func)
            def after(*arguments: Any) -> Any:
                found, rest = arguments[: len(ends)], arguments[len(ends) :]
                with replaced(layers, _grouped(found, sizes), at_input=attribute_to_layer_input):
                    return run_model(task.forward_func, rest)

            behind = describe(
                IntegratedGradients(after, self._multiply_by_inputs),
                ends,
                starts,
                task.target,
                task.inputs + task.additional,
                n_steps,
                method,
                internal_batch_size,
                first_layer_once=False,  # what is run begins behind the layer
                show_progress=show_progress,
                create_graph=create_graph,
                grad_kwargs=grad_kwargs,
            )
            behind.task.copies = task.copies
            result = behind.run()
            attributions = self.result(_grouped(result, sizes))
            return (attributions, task.delta(result)) if return_convergence_delta else attributions

        return task.once(run)


def _grouped(values: tuple[torch.Tensor, ...], sizes: list[int]) -> list[tuple[torch.Tensor, ...]]:
    """The values of each layer."""
    each = iter(values)
    return [tuple(next(each) for _ in range(size)) for size in sizes]
