"""Layer Gradient × Activation: Input × Gradient, at a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.scores import Target


class LayerGradientXActivation(LayerAttribution):
    """The value at a layer times the gradient of the target by it, for one layer or each of a list.

    Costs one forward pass, and one backward pass from the output to the first layer, for all of them.

    >>> maps = fastsal.LayerGradientXActivation(model, "last").attribute(images, target=classes)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules or its dotted name, or a list of these.
        device_ids: accepted for Captum's sake.
        multiply_by_inputs: the factor of the value; without it the gradient is returned.
        memory_efficient: attributions on the CPU, whatever the model's device.
    """

    several = True
    summary = "a layer's value times the gradient by it"
    cost = "1 forward, 1 backward to the layer"

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs
        self._memory_efficient = memory_efficient

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        create_graph: bool = False,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value; a tuple where it has several tensors or runs several times,
        use by use; a list of these for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            attribute_to_layer_input: to the layer's input rather than its output.
            grad_kwargs: further arguments of ``torch.autograd.grad``.
            create_graph: keep the graph, so that the attribution can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer that the target does not depend on.
        """
        task = self.task(inputs, target, additional_forward_args, create_graph=create_graph)

        def run() -> Any:
            found = self.read(task, attribute_to_layer_input, grad_kwargs)
            with torch.set_grad_enabled(create_graph):
                results = [
                    [self._attribution(*tensors) for tensors in zip(*pair, strict=True)]
                    for pair in zip(found.values, found.gradients, strict=True)
                ]
            return self.result(results)

        return task.once(run)

    def _attribution(self, value: Tensor, gradient: Tensor) -> Tensor:
        if self._memory_efficient:
            value, gradient = value.cpu(), gradient.cpu()
        return value * gradient if self._multiply_by_inputs else gradient
