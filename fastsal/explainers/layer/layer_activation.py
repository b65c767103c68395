"""Layer Activation: what a layer computes."""

from __future__ import annotations

from typing import Any

from fastsal.engine.reading import read
from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.layer.layer_attribution import LayerAttribution


class LayerActivation(LayerAttribution):
    """The value at a layer, or at each of a list of layers. Costs one forward pass for all of them.

    >>> values = fastsal.LayerActivation(model, ["stem", "last"]).attribute(images)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name, or a list of these.
        device_ids: accepted for Captum's sake.
    """

    several = True
    summary = "a layer's value; of no target"
    cost = "1 forward"

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    @attribution
    def attribute(
        self, inputs: Inputs, additional_forward_args: Any = None, attribute_to_layer_input: bool = False
    ) -> Call[Any]:
        """The layer's value; a tuple where it has several tensors or runs several times, use by use; a list of these
        for a list of layers.

        Args:
            inputs: tensor [B, ...] or tuple of them.
            additional_forward_args: further arguments of the model.
            attribute_to_layer_input: the layer's input rather than its output.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer that does not run.
        """
        task = self.task(inputs, None, additional_forward_args)

        def run() -> Any:
            found = read(
                task.forward_func,
                self.layers(task),
                task.inputs,
                task.additional,
                at_input=attribute_to_layer_input,
                every_use=True,
            )
            task.note(found.output)
            return self.result(found.values)

        return task.once(run)
