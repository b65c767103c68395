"""Deconvolution: activations sent back through ReLUs that rectify the signal on its way back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient._relu_rule import ModifiedRelu
from fastsal.explainers.scores import Target


class Deconvolution(ModifiedRelu):
    """relu(gradient) at every ReLU, whether it was active or not: Zeiler, Fergus, "Visualizing and Understanding
    Convolutional Networks" (ECCV 2014), section 2.1.

    Every ReLU counts, module or function. Costs one forward and one backward pass.

    >>> maps = fastsal.Deconvolution(model).attribute(images, target=classes)

    Args:
        model: a torch.nn.Module in Python code.

    Raises:
        TypeError: for what is not a module, or has compiled parts whose ReLUs cannot be reached.
    """

    summary = "activations sent back through rectifiers"

    @staticmethod
    def rule(gradient: Tensor, result: Tensor) -> Tensor:
        """The gradient that a ReLU with this result passes on."""
        return gradient.clamp_min(0)

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        abs: bool = False,
        create_graph: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            abs: the absolute value.
            create_graph: keep the graph, so that the attribution can be trained through.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        return self.described(inputs, target, additional_forward_args, abs, create_graph, allow_unused)
