"""Integrated Gradients of a neuron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.integrated_gradients import IntegratedGradients
from fastsal.explainers.layer.neuron_attribution import NeuronAttribution, Selector


class NeuronIntegratedGradients(NeuronAttribution):
    """:class:`fastsal.IntegratedGradients` of a value of a layer: (x - b) times the gradient of a neuron, averaged
    along the path from a baseline. Sundararajan, Taly, Yan (ICML 2017).

    Costs n_steps forward passes, and backward passes from the layer; memory does not grow with n_steps.

    >>> maps = fastsal.NeuronIntegratedGradients(model, "last").attribute(images, (3, 0, 0), n_steps=20)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
        multiply_by_inputs: the factor (x - b); without it the mean gradient (or multiplier) is returned.
    """

    summary = "gradient of a layer's value averaged on the path from a baseline"
    cost = "n_steps forward, n_steps backward from the layer"
    per_call = "internal_batch_size"

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self.method = IntegratedGradients(self.forward_func, multiply_by_inputs)

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: Selector,
        baselines: Baselines = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        *,
        show_progress: bool = False,
        create_graph: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form and shapes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them (integers are taken as floating point).
            neuron_selector: the neuron: an int or a tuple of ints that index the layer's value without its batch; with
                slices in the tuple the sum of the chosen; or a function of the value (of the tuple of tensors where it
                has several) that returns one number per example, [B].
            baselines: where the path starts: None (0), a number, a tensor that broadcasts, or a tuple of these.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            n_steps: points of the path.
            method: quadrature rule: gausslegendre, riemann_left, riemann_right, riemann_middle, riemann_trapezoid.
            internal_batch_size: rows per model call; chosen from memory when None.
            attribute_to_neuron_input: a neuron of the layer's input rather than of its output.
            show_progress: show a bar.
            create_graph: keep the graph, so that the attribution can be trained through.
            allow_unused: give zeros, with a warning, for an input that the neuron does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a neuron that does not depend on the inputs.
        """
        return self.of_neuron(
            self.method,
            inputs,
            neuron_selector,
            attribute_to_neuron_input,
            additional_forward_args,
            baselines,
            n_steps=n_steps,
            method=method,
            internal_batch_size=internal_batch_size,
            first_layer_once=False,  # which pays where the gradient goes through the whole model
            show_progress=show_progress,
            create_graph=create_graph,
            allow_unused=allow_unused,
        )
