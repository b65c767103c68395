"""Layer Integrated Gradients: the path between a layer's values at the baseline and at the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastsal.engine.reading import Replaced
from fastsal.engine.run import calling
from fastsal.explainers.arguments import Baselines, Inputs, examples_of
from fastsal.explainers.base import attribution, describe
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.integrated_gradients import IntegratedGradients
from fastsal.explainers.layer._ends import Ends
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task


class LayerIntegratedGradients(LayerAttribution):
    """Integrated Gradients of the part of the model after a layer, or after a list of layers jointly.

    The path runs from the layer's value at the baseline to that at the input, which explains inputs that have no
    gradient themselves, such as the words behind an embedding. A layer that runs several times has a path for each use,
    jointly. Costs n_steps forward and backward passes per example, and forward passes of both ends, twice.

    The value's examples may be in any dimension, also with parts of theirs (the sentences of documents, [B * S, ...]);
    where these passes do not show where they are, the path runs one point at a time.

    >>> maps = fastsal.LayerIntegratedGradients(model, "last").attribute(images, target=classes, n_steps=20)

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules or its dotted name, or a list of these.
        device_ids: accepted for Captum's sake.
        multiply_by_inputs: the factor (value - baseline value); without it the mean gradient is returned.
    """

    several = True
    summary = "Integrated Gradients behind a layer"
    cost = "n_steps forward, n_steps backward, 4 forward"
    per_call = "internal_batch_size"

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        return True

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
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        show_progress: bool = False,
        create_graph: bool = False,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value; a tuple where it has several tensors or runs several times,
        use by use; a list of these for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them, of any dtype.
            baselines: of the inputs: None (0), a number, a tensor that broadcasts, or a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated along the path.
            n_steps: points of the path.
            method: quadrature rule: gausslegendre, riemann_left, riemann_right, riemann_middle, riemann_trapezoid.
            internal_batch_size: rows per model call; chosen from memory when None.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B].
            attribute_to_layer_input: to the layer's input rather than its output.
            grad_kwargs: further arguments of ``torch.autograd.grad``.
            show_progress: show a bar.
            create_graph: keep the graph of the part after the layer, so that the attribution can be trained through.

        Raises:
            TypeError, ValueError: for arguments outside of the above, a layer that does not run, or does not run alike
                for inputs and baselines, one whose value is not floating point, or a delta where it is not known which
                part of the value is of which example.
        """
        task = self.task(inputs, target, additional_forward_args, baselines=baselines)
        examples_of(task.inputs)

        def run() -> Any:
            layers = self.layers(task)
            ends = Ends(task, layers, attribute_to_layer_input, constants=self._multiply_by_inputs)

            target = task.target  # asked now, since it may take a pass of the model
            if ends.by_example:
                task.rows()  # before the layers' values are replaced
            with Replaced(task.forward_func, layers, ends.uses, at_input=attribute_to_layer_input) as replaced:

                @calling(task.forward_func)
                def after(*arguments: Any) -> Any:
                    values, rest = arguments[: len(ends.stops)], arguments[len(ends.stops) :]
                    output = replaced.run(ends.values(values), rest)
                    return output if ends.by_example else task.select()(output).sum().reshape(1)

                behind = describe(
                    IntegratedGradients(after, self._multiply_by_inputs),
                    ends.stops,
                    ends.starts,
                    target if ends.by_example else None,
                    task.inputs + task.additional,
                    n_steps,
                    method,
                    internal_batch_size if ends.by_example else 1,
                    first_layer_once=False,  # what is run begins behind the layer
                    show_progress=show_progress,
                    create_graph=create_graph,
                    grad_kwargs=grad_kwargs,
                )
                behind.task.copies = task.copies
                behind.task.take_rows(task)
                # Of a layer's tensors one may be of no use, such as the last state of a recurrent one.
                behind.task.parts = [
                    (f"layer[{i}]" if len(layers) > 1 else "layer", n) for i, n in enumerate(ends.counts)
                ]
                result = behind.run()
            delta = self._delta(task, ends, result) if return_convergence_delta else None
            each = iter(ends.attributions(result))
            attributions = self.result([tuple(next(each) for _ in range(sum(sizes))) for sizes in ends.uses])
            return attributions if delta is None else (attributions, delta)

        return task.once(run)

    def _delta(self, task: Task, ends: Ends, result: tuple[Tensor, ...]) -> Tensor:
        if ends.by_example:
            return task.delta(result)
        if task.examples > 1:
            raise ValueError(
                "return_convergence_delta: which part of the layer's value is of which example is not known; "
                "pass one example at a time"
            )
        return task.delta([part.reshape(1, -1) for part in result])
