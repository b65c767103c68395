"""Grad-CAM at the size of its layer, in Captum's form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.scores import Target


class LayerGradCam(LayerAttribution):
    """Selvaraju et al., "Grad-CAM" (ICCV 2017), equations 1 and 2, without the ReLU unless it is asked for.

    Costs one forward pass, and a backward pass from the output to the layer. :class:`fastsal.GradCAM` upsamples and
    normalises.

    >>> maps = fastsal.LayerGradCam(model, "last").attribute(images, target=classes)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
    """

    summary = "activations of a layer, weighted by the target's mean gradient, in the layer's size"
    cost = "1 forward, 1 backward to the layer"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        create_graph: bool = False,
    ) -> Call[Any]:
        """Attribution [B, 1, *spatial] in the layer's size; a tuple where it has several tensors or runs several times,
        use by use.

        Args:
            inputs: tensor [B, ...] or tuple of them.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            attribute_to_layer_input: to the layer's input rather than its output.
            relu_attributions: keep what speaks for the target only (the paper's).
            attr_dim_summation: sum over the channels; [B, C, *spatial] otherwise.
            grad_kwargs: further arguments of ``torch.autograd.grad``.
            create_graph: keep the graph, so that the attribution can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer that the target does not depend on.
        """
        task = self.task(inputs, target, additional_forward_args, create_graph=create_graph)

        def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
            spatial = tuple(range(2, gradients.dim()))
            weighted = activations * (gradients.mean(spatial, keepdim=True) if spatial else gradients)
            summed = weighted.sum(1, keepdim=True) if attr_dim_summation else weighted
            return summed.relu() if relu_attributions else summed

        def run() -> Any:
            found = self.read(task, attribute_to_layer_input, grad_kwargs)
            for value in found.values[0]:
                if value.dim() < 2 or len(value) % max(1, task.examples):
                    raise ValueError(
                        f"layer: its value of shape {tuple(value.shape)} does not have the {task.examples} examples as "
                        "dimension 0 and channels as dimension 1; choose another layer"
                    )
            with torch.set_grad_enabled(create_graph):
                return self.result([tuple(map(grad_cam, found.values[0], found.gradients[0]))])

        return task.once(run)
