"""Feature Ablation of a neuron."""

from __future__ import annotations

from typing import Any

from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.layer.neuron_attribution import NeuronAttribution, Selector
from fastsal.explainers.perturbation.occlusion.feature_ablation import FeatureAblation


class NeuronFeatureAblation(NeuronAttribution):
    """:class:`fastsal.FeatureAblation` of a value of a layer: how much a neuron drops when a feature is replaced.

    Costs a forward pass per feature and one for the neuron itself.

    >>> columns = torch.arange(9) // 3
    >>> maps = fastsal.NeuronFeatureAblation(model, "last").attribute(images, (3, 0, 0), feature_mask=columns)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
    """

    summary = "drop of a layer's value when a feature is replaced"
    cost = "1 forward, 1 for each feature"
    perturbs = True
    per_call = "perturbations_per_eval"

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: Selector,
        baselines: Baselines = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        attribute_to_neuron_input: bool = False,
        perturbations_per_eval: int | None = None,
        *,
        show_progress: bool = False,
    ) -> Call[Any]:
        """Attribution in the form and shapes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, any dtype.
            neuron_selector: the neuron: an int or a tuple of ints that index the layer's value without its batch; with
                slices in the tuple the sum of the chosen; or a function of the value (of the tuple of tensors where it
                has several) that returns one number per example, [B].
            baselines: what a feature is replaced by: None (0), a number, a tensor that broadcasts, or a tuple of these.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            feature_mask: the feature of each element, from 0: an int tensor [1 or B, ...] that broadcasts to the input,
                or a tuple of these; an id in several inputs is one feature. None takes each element as one.
            attribute_to_neuron_input: a neuron of the layer's input rather than of its output.
            perturbations_per_eval: features per model call; chosen from memory when None.
            show_progress: show a bar.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a neuron that does not depend on the inputs.
        """
        return self.of_neuron(
            FeatureAblation(self.forward_func),
            inputs,
            neuron_selector,
            attribute_to_neuron_input,
            additional_forward_args,
            baselines,
            feature_mask=feature_mask,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
