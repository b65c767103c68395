"""Input × Gradient."""

from __future__ import annotations

from typing import Any

from fastsal.explainers.arguments import Inputs
from fastsal.explainers.base import GradientAttribution, attribution
from fastsal.explainers.call import Call
from fastsal.explainers.scores import Target


class InputXGradient(GradientAttribution):
    """The input times the gradient of the target by it: Shrikumar et al., "Not Just a Black Box" (2016), section 1.

    Costs one forward and one backward pass.

    >>> maps = fastsal.InputXGradient(model).attribute(images, target=classes)

    Args:
        forward_func: module or callable.
    """

    summary = "input times gradient"
    cost = "1 forward, 1 backward"
    fixed = exportable = True

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        create_graph: bool = False,
        allow_unused: bool = False,
    ) -> Call[Any]:
        """Attribution in the form, shapes and dtypes of the inputs.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model.
            create_graph: keep the graph, so that the attribution can be trained through.
            allow_unused: give zeros, with a warning, for an input that the target does not use in any way. One that it
                uses in ways without a gradient is an error always.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        task = self.task(inputs, target, additional_forward_args, create_graph=create_graph, allow_unused=allow_unused)

        def run() -> Any:
            with task.context():
                return task.result([x * g for x, g in zip(task.inputs, task.gradients(), strict=True)])

        return task.once(run)
