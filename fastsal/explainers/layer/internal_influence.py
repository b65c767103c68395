"""Internal Influence: the gradient by a layer, averaged along a path of the inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastsal.engine.reading import Reading
from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.quadrature import checked_rule, rule_on
from fastsal.explainers.layer._along import Sums, on_path
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.scores import Target
from fastsal.ops import accumulation_dtype


class InternalInfluence(LayerAttribution):
    """Mean of dF/da over the path from a baseline to the input, for the values a of a layer, or of each of a list.

    Leino, Sen, Datta, Fredrikson, Li, "Influence-Directed Explanations for Deep Convolutional Networks" (ITC 2018),
    definition 1, for a uniform distribution on the path. Costs n_steps forward passes, and backward passes to the first
    layer; memory does not grow with n_steps.

    >>> maps = fastsal.InternalInfluence(model, "last").attribute(images, target=classes, n_steps=20)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules or its dotted name, or a list of these.
        device_ids: accepted for Captum's sake.
    """

    several = True
    summary = "gradient by a layer, averaged along the path from a baseline"
    cost = "n_steps forward, n_steps backward to the layer"
    per_call = "internal_batch_size"

    @attribution
    def attribute(
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        show_progress: bool = False,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value, a tuple where it has several tensors; a list for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them (integers are taken as floating point).
            baselines: where the path starts: None (0), a number, a tensor that broadcasts, or a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated along the path.
            n_steps: points of the path.
            method: quadrature rule: gausslegendre, riemann_left, riemann_right, riemann_middle, riemann_trapezoid.
            internal_batch_size: rows per model call; chosen from memory when None.
            attribute_to_layer_input: to the layer's input rather than its output.
            grad_kwargs: further arguments of ``torch.autograd.grad``.
            show_progress: show a bar.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a layer that the target does not depend on.
        """
        task = self.task(
            inputs,
            target,
            additional_forward_args,
            baselines=baselines,
            rows_per_call=internal_batch_size,
            named="internal_batch_size",
            floating=True,
            show_progress=show_progress,
        )
        checked_rule(method, n_steps)
        sums = Sums()

        def added(reading: Reading, start: int, stop: int) -> Any:
            def weights(like: Tensor) -> Tensor:
                return rule_on(method, n_steps, accumulation_dtype(like.dtype), like.device)[1][start:stop]

            return sums.added(reading.gradients, weights)

        def finish() -> Any:
            return self.result(sums.values)

        rule = method, n_steps
        return on_path(self, task, rule, attribute_to_layer_input, grad_kwargs, added, sums.keep, finish)
