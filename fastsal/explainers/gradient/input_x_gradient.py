"""Input × Gradient."""

from __future__ import annotations

from typing import Any

from fastsal.engine.run import evaluation
from fastsal.explainers._old import attribute_method
from fastsal.explainers.arguments import Inputs, as_arguments, as_inputs, as_result
from fastsal.explainers.base import GradientAttribution
from fastsal.explainers.input_gradient import input_gradients
from fastsal.explainers.scores import Target


class InputXGradient(GradientAttribution):
    """The input times the gradient of the target by it: Shrikumar et al., "Not Just a Black Box" (2016), section 1.

    Costs one forward and one backward pass.
    """

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    @attribute_method
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        create_graph: bool = False,
    ) -> Any:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            create_graph: keep the graph, so that the attribution can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        tensors, given_tuple = as_inputs(inputs)
        additional = as_arguments(additional_forward_args)
        with evaluation(self.forward_func):
            gradients = input_gradients(self.forward_func, tensors, additional, target, create_graph)
            values = tensors if create_graph else [tensor.detach() for tensor in tensors]
            return as_result([x * g for x, g in zip(values, gradients, strict=True)], given_tuple)
