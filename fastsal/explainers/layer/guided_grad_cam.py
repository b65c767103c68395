"""Guided Grad-CAM: Guided Backprop where Grad-CAM looks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import GradientAttribution, attribution, describe
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.guided_backprop import GuidedBackprop
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.layer.layer_grad_cam import LayerGradCam
from fastsal.explainers.scores import Target


class GuidedGradCam(GradientAttribution):
    """relu(Grad-CAM), upsampled, times Guided Backprop: Selvaraju et al., "Grad-CAM" (ICCV 2017), section 3.2.

    Costs two forward passes, a backward pass to the layer and one to the input.

    >>> maps = fastsal.GuidedGradCam(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
    """

    summary = "Guided Backprop where Grad-CAM looks"
    cost = "2 forward, 1 backward to the layer, 1 to the input"
    reads = "layer"

    def __init__(self, model: nn.Module, layer: nn.Module | str, device_ids: list[int] | None = None) -> None:
        super().__init__(model)
        self.model = model
        self.grad_cam = LayerGradCam(model, layer, device_ids)
        self.guided_backprop = GuidedBackprop(model)

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
        *,
        create_graph: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, C, *spatial] or tuple of them, floating point.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            interpolate_mode: of ``torch.nn.functional.interpolate``, from the layer's size to the input's.
            attribute_to_layer_input: Grad-CAM at the layer's input rather than its output.
            create_graph: keep the graph, so that the attribution can be trained through.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer and an input of which one has more
                spatial dimensions.
        """
        task = self.task(inputs, target, additional_forward_args, create_graph=create_graph)

        def run() -> Any:
            coarse = describe(
                self.grad_cam,
                inputs,
                target,
                additional_forward_args,
                attribute_to_layer_input,
                relu_attributions=True,
                create_graph=create_graph,
            )
            coarse.task.copies = task.copies
            maps = coarse.run()
            if isinstance(maps, tuple):
                raise ValueError("layer: it has several tensors, or runs several times; choose one with one map")
            for tensor in task.inputs:
                if tensor.dim() != maps.dim() or tensor.dim() < 3:
                    raise ValueError(
                        f"layer: its map {tuple(maps.shape)} cannot be resized to the input {tuple(tensor.shape)}; "
                        "both must be [B, C, *spatial] with as many dimensions"
                    )
            task.note(coarse.task.output)
            fine = describe(
                self.guided_backprop,
                inputs,
                task.target,
                additional_forward_args,
                create_graph=create_graph,
                allow_unused=allow_unused,
            )
            fine.task.copies = task.copies
            guided = fine.task.given.parts(fine.run())
            with torch.set_grad_enabled(create_graph):
                products = [
                    gradient
                    * LayerAttribution.interpolate(maps, tuple(tensor.shape[2:]), interpolate_mode).to(gradient)
                    for gradient, tensor in zip(guided, task.inputs, strict=True)
                ]
            return task.result(products)

        return task.once(run)
