"""Layer Activation: what a layer computes."""

from __future__ import annotations

from typing import Any

from fastsal.engine.reading import read
from fastsal.explainers._wrapped import attribute_method
from fastsal.explainers.base import Inputs, as_arguments, as_inputs
from fastsal.explainers.layer.layer_attribution import LayerAttribution


class LayerActivation(LayerAttribution):
    """The value at a layer, or at each of a list of layers. Costs one forward pass for all of them."""

    several = True

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    @attribute_method
    def attribute(
        self, inputs: Inputs, additional_forward_args: Any = None, attribute_to_layer_input: bool = False
    ) -> Any:
        """The layer's value, a tuple where it has several tensors, a list of these for a list of layers.

        Args:
            inputs: tensor [B, ...] or tuple of them.
            additional_forward_args: further arguments of the model.
            attribute_to_layer_input: the layer's input rather than its output.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer that does not run.
        """
        tensors, _ = as_inputs(inputs)
        additional = as_arguments(additional_forward_args)
        layers = self._layers(tensors, additional)
        reading = read(self.forward_func, layers, tensors, additional, at_input=attribute_to_layer_input)
        return self._result(reading.values)
