"""DeepLIFT SHAP of a neuron."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.deep_lift import Custom
from fastsal.explainers.gradient.deep_lift_shap import DeepLiftShap
from fastsal.explainers.layer.neuron_attribution import NeuronAttribution, Selector


class NeuronDeepLiftShap(NeuronAttribution):
    """:class:`fastsal.DeepLiftShap` of a value of a layer: what the inputs contribute to a neuron's change, averaged
    over baselines.

    Costs a forward pass, and a backward pass from the layer, of two rows per example and baseline.

    >>> maps = fastsal.NeuronDeepLiftShap(model, "last").attribute(images, (3, 0, 0), torch.zeros(3, *images.shape[1:]))

    Args:
        model: a torch.nn.Module in Python code.
        layer: one of its modules, or its dotted name.
        multiply_by_inputs: the factor (x - b); without it the mean gradient (or multiplier) is returned.
    """

    summary = "DeepLIFT of a layer's value, averaged over baselines"
    cost = "1 forward, 1 backward from the layer, of two rows for each example and baseline"
    per_call = "perturbations_per_eval"

    def __init__(self, model: nn.Module, layer: Any, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer)
        self.method = DeepLiftShap(model, multiply_by_inputs)

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: Selector,
        baselines: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: Custom | None = None,
        *,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form and shapes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            neuron_selector: the neuron: an int or a tuple of ints that index the layer's value without its batch; with
                slices in the tuple the sum of the chosen; or a function of the value (of the tuple of tensors where it
                has several) that returns one number per example, [B].
            baselines: a distribution: a tensor [rows, ...], a tuple of one per input, or a function (of nothing or of
                the inputs) that returns one; every
                example is compared with each row.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            attribute_to_neuron_input: a neuron of the layer's input rather than of its output.
            custom_attribution_func: (multipliers[, inputs[, baselines]]), tuples all, into the attributions.
            perturbations_per_eval: baselines per model call; chosen from memory when None.
            show_progress: show a bar.
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
            custom_attribution_func=custom_attribution_func,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            allow_unused=allow_unused,
        )
