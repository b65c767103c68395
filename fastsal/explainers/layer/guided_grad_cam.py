"""Guided Grad-CAM: Guided Backprop where Grad-CAM looks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastsal.explainers._old import attribute_method
from fastsal.explainers.arguments import Inputs, as_inputs, as_result
from fastsal.explainers.base import GradientAttribution
from fastsal.explainers.gradient.guided_backprop import GuidedBackprop
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.layer.layer_grad_cam import LayerGradCam
from fastsal.explainers.scores import Target


class GuidedGradCam(GradientAttribution):
    """relu(Grad-CAM), upsampled, times Guided Backprop: Selvaraju et al., "Grad-CAM" (ICCV 2017), section 3.2.

    Costs two forward passes, a backward pass to the layer and one to the input.

    Args:
        model: a torch.nn.Module.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
    """

    def __init__(self, model: nn.Module, layer: nn.Module | str, device_ids: list[int] | None = None) -> None:
        super().__init__(model)
        self.model = model
        self.grad_cam = LayerGradCam(model, layer, device_ids)
        self.guided_backprop = GuidedBackprop(model)

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
        *,
        create_graph: bool = False,
    ) -> Any:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, C, *spatial] or tuple of them, floating point.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            interpolate_mode: of ``torch.nn.functional.interpolate``, from the layer's size to the input's.
            attribute_to_layer_input: Grad-CAM at the layer's input rather than its output.
            create_graph: keep the graph, so that the attribution can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer and an input of which one has more
                spatial dimensions.
        """
        tensors, given_tuple = as_inputs(inputs)
        maps = self.grad_cam.attribute(
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions=True,
            create_graph=create_graph,
        )
        if isinstance(maps, tuple):
            raise ValueError("layer: its value is a tuple, not one tensor; choose a layer inside it")
        for tensor in tensors:
            if tensor.dim() != maps.dim() or tensor.dim() < 3:
                raise ValueError(
                    f"layer: its map {tuple(maps.shape)} cannot be resized to the input {tuple(tensor.shape)}; "
                    "both must be [B, C, *spatial] with as many dimensions"
                )
        guided = self.guided_backprop.attribute(tensors, target, additional_forward_args, create_graph=create_graph)
        with torch.set_grad_enabled(create_graph):
            products = [
                gradient * LayerAttribution.interpolate(maps, tuple(tensor.shape[2:]), interpolate_mode).to(gradient)
                for gradient, tensor in zip(guided, tensors, strict=True)
            ]
        return as_result(products, given_tuple)
