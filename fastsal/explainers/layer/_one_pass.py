"""Methods of one forward and one backward pass, of a neuron."""

from __future__ import annotations

from typing import Any, ClassVar

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.layer.neuron_attribution import NeuronAttribution, Selector


class NeuronOnePass(NeuronAttribution):
    """Base of the methods of a neuron that are one gradient: a subclass makes its ``method``.

    Attributes:
        options: what its ``attribute`` is given beside the arguments.
    """

    cost = "1 forward, 1 backward from the layer"
    options: ClassVar[dict[str, Any]] = {}

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: Selector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        *,
        create_graph: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form and shapes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            neuron_selector: the neuron: an int or a tuple of ints that index the layer's value without its batch; with
                slices in the tuple the sum of the chosen; or a function of the value (of the tuple of tensors where it
                has several) that returns one number per example, [B].
            additional_forward_args: further arguments of the model.
            attribute_to_neuron_input: a neuron of the layer's input rather than of its output.
            create_graph: keep the graph, so that the attribution can be trained through.
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
            **self.options,
            create_graph=create_graph,
            allow_unused=allow_unused,
        )
