"""Grad-CAM: a layer's activations, weighted by the mean gradient of the target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine import Tap, layers, resolve_layer, tap
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import Attribution, Inputs, Target, as_arguments, as_inputs, one_score_each
from fastsal.ops import cam


class GradCAM(Attribution):
    """Selvaraju et al., "Grad-CAM" (ICCV 2017), equations 1 and 2.

    Costs one forward pass, and a backward pass from the output to the layer.

    Args:
        model: a torch.nn.Module.
        layer: one of its modules, or its dotted name; None takes the last with spatial extent (see
            :func:`fastsal.layers`), found by one more pass on one example at the first call.
    """

    def __init__(self, model: nn.Module, layer: nn.Module | str | None = None) -> None:
        super().__init__(model)
        self.layer = None if layer is None else resolve_layer(model, layer)
        self.layer_name = layer if isinstance(layer, str) else None

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        relu_attributions: bool = True,
        upsample: bool = True,
        normalize: bool = True,
        create_graph: bool = False,
    ) -> Tensor:
        """Maps [B, 1, *spatial], in the size of the (first) input or of the layer.

        Args:
            inputs: tensor [B, C, *spatial] or tuple of tensors.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            relu_attributions: keep what speaks for the target only.
            upsample: resize to the input, linearly with half-pixel centres; the layer's size otherwise.
            normalize: to [0, 1] per map.
            create_graph: keep the graph, so that the map can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above, a layer without spatial extent, or one that
                the target does not depend on.
        """
        read = self.read(inputs, target, additional_forward_args, create_graph)
        return self.render(read, inputs, relu_attributions, upsample, normalize)

    def read(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        create_graph: bool = False,
    ) -> Tap:
        """The model pass alone: output, activations and gradients."""
        tensors, _ = as_inputs(inputs)
        additional = as_arguments(additional_forward_args)
        if self.layer is None:
            found = layers(self.forward_func, tensors, additional)
            if not found:
                raise ValueError("layer: the model has none with an output [B, C, *spatial]; name one")
            self.layer_name = found[-1].name
            self.layer = resolve_layer(self.forward_func, self.layer_name)
        examples = tensors[0].shape[0]
        return tap(
            self.forward_func,
            self.layer,
            tensors,
            additional,
            lambda out: one_score_each(out, target, examples),
            create_graph,
        )

    def render(
        self, read: Tap, inputs: Inputs, relu: bool = True, upsample: bool = True, normalize: bool = True
    ) -> Tensor:
        """Maps from what :meth:`read` returned."""
        size = None
        if upsample:
            size = as_inputs(inputs)[0][0].shape[2:]
            if len(size) != read.activations.dim() - 2:
                raise ValueError(
                    f"upsample: the layer's output {tuple(read.activations.shape)} and the input do not have the same "
                    "spatial dimensions; use upsample=False"
                )
        with torch.set_grad_enabled(read.gradients.requires_grad):
            return cam.map(read.activations, read.gradients, size, relu=relu, normalize=normalize).unsqueeze(1)
