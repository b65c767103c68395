"""Gradient SHAP of a neuron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.gradient_shap import GradientShap
from fastsal.explainers.gradient.samples import Draw
from fastsal.explainers.layer.neuron_attribution import NeuronAttribution, Selector


class NeuronGradientShap(NeuronAttribution):
    """:class:`fastsal.GradientShap` of a value of a layer: expected gradients of a neuron between noisy inputs and
    baselines drawn from a distribution.

    Costs n_samples forward passes, and backward passes from the layer, per example.

    >>> maps = fastsal.NeuronGradientShap(model, "last").attribute(images, (3, 0, 0), torch.zeros(1, *images.shape[1:]))

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
        multiply_by_inputs: the factor (x - b); without it the mean gradient (or multiplier) is returned.
    """

    summary = "gradient of a layer's value between noisy inputs and drawn baselines, times their difference"
    cost = "n_samples forward, n_samples backward from the layer"
    per_call = "perturbations_per_eval"
    _draw: Draw | None = None

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self.method = GradientShap(self.forward_func, multiply_by_inputs)
        self.method._draw = self._draw

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: Selector,
        baselines: Any,
        n_samples: int = 5,
        stdevs: Any = 0.0,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        *,
        seed: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        create_graph: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form and shapes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            neuron_selector: the neuron: an int or a tuple of ints that index the layer's value without its batch; with
                slices in the tuple the sum of the chosen; or a function of the value (of the tuple of tensors where it
                has several) that returns one number per example, [B].
            baselines: a distribution: a tensor [rows, ...], a tuple of one per input, or a function (of nothing or of
                the inputs) that returns one.
            n_samples: draws per example.
            stdevs: standard deviation of the noise: a number, a tensor that broadcasts, or a tuple of one per input.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            attribute_to_neuron_input: a neuron of the layer's input rather than of its output.
            seed: chooses the draws; None draws it from torch's global generator.
            perturbations_per_eval: draws per model call; chosen from memory when None.
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
            n_samples=n_samples,
            stdevs=stdevs,
            seed=seed,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            create_graph=create_graph,
            allow_unused=allow_unused,
        )
