"""DeepLIFT SHAP at a layer: DeepLIFT at a layer, averaged over a distribution of baselines."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.deep_lift import Custom
from fastsal.explainers.gradient.deep_lift_shap import DeepLiftShap
from fastsal.explainers.layer.layer_deep_lift import LayerDeepLift
from fastsal.explainers.scores import Target


class LayerDeepLiftShap(LayerDeepLift, DeepLiftShap):
    """Mean of DeepLIFT at a layer over baselines: Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions"
    (NeurIPS 2017), section 4.2.

    Costs a forward pass and a backward pass to the layer of two rows per example and baseline; memory does not grow
    with the baselines.

    >>> baselines = torch.zeros(3, *images.shape[1:])
    >>> maps = fastsal.LayerDeepLiftShap(model, "last").attribute(images, baselines, target=classes)

    Args:
        model: a torch.nn.Module in Python code, with the examples as dimension 0 of its activations.
        layer: one of its modules or its dotted name, or a list of these.
        multiply_by_inputs: the factor a(x) - a(b); without it the mean multipliers are returned.
    """

    summary = "DeepLIFT at a layer, averaged over baselines"
    cost = "1 forward, 1 backward to the layer, of two rows for each example and baseline"
    per_call = "perturbations_per_eval"

    @classmethod
    def defaults(cls, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return DeepLiftShap.defaults(inputs)

    def __init__(self, model: nn.Module, layer: Any, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer, multiply_by_inputs)

    @attribution
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        baselines: Any,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Custom | None = None,
        *,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value, a tuple where it has several tensors; a list for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            baselines: tensor [N, ...], tuple of one per input, or a function (of nothing or of the inputs) that returns
                one; every example is compared with each row.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B * N], example by example; of
                several layers together.
            attribute_to_layer_input: to the layer's input rather than its output.
            custom_attribution_func: (multipliers[, values[, values at the baselines]]), tuples of the tensors of all
                layers, into the attributions of some of the pairs; their mean is returned.
            perturbations_per_eval: baselines per model call. When None, chosen from memory, but one at a time where an
                additional tensor has as many entries as there are examples.
            show_progress: show a bar.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model that mixes the examples.
        """
        task = self.task(
            inputs, target, additional_forward_args, per_call=perturbations_per_eval, show_progress=show_progress
        )
        return self.averaged(
            task,
            inputs,
            baselines,
            return_convergence_delta,
            custom_attribution_func,
            at_input=attribute_to_layer_input,
        )
