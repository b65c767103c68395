"""The part of a model behind a layer as a function of the layer's value, into which any method can be put."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fastsal.engine.reading import Replaced, read
from fastsal.engine.run import calling
from fastsal.explainers.base import Attribution, describe
from fastsal.explainers.call import Call
from fastsal.explainers.layer._features import features_of
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.task import Task


def put_behind(
    explainer: LayerAttribution,
    task: Task,
    method: Callable[[Callable[..., Any]], Attribution],
    at_input: bool,
    *arguments: Any,
    layer_mask: Any = None,
    **options: Any,
) -> Call[Any]:
    """A method's call on the model behind the explainer's layer, or behind each of a list of layers in turn.

    Args:
        explainer: of the layers.
        task: what is explained.
        method: an explainer of the function that it is given.
        at_input: the values are the layers' inputs.
        arguments: of the method's ``attribute`` after the inputs and before the target.
        layer_mask: the features of methods that take a ``feature_mask``, as of :func:`features_of`.
        options: its keywords, without target and additional_forward_args.
    """

    def of_layer(layer: nn.Module) -> tuple[Tensor, ...]:
        reading = read(task.forward_func, [layer], task.inputs, task.additional, at_input=at_input, every_use=True)
        task.note(reading.output)
        (values,) = reading.values
        for value in values:
            if value.dim() == 0 or value.shape[0] != task.examples or not _of_examples(task, layer, values, at_input):
                raise ValueError(
                    f"layer: its value {value.dtype} of shape {tuple(value.shape)} does not have the "
                    f"{task.examples} examples as dimension 0; choose another layer"
                )

        if explainer.per_call is not None:
            task.rows()  # before the layer's values are replaced
        mask = features_of(layer_mask, task, layer, values, at_input)
        with Replaced(task.forward_func, [layer], reading.uses, at_input=at_input) as replaced:

            @calling(task.forward_func)
            def after(*given: Any) -> Any:
                return replaced.run(given[: len(values)], given[len(values) :])

            call = describe(
                method(after),
                values,
                *arguments,
                target=task.target,
                additional_forward_args=(*task.inputs, *task.additional),
                **options,
                **({} if mask is None else {"feature_mask": mask}),
            )
            call.task.copies, call.task.ambiguous = task.copies, task.ambiguous
            call.task.parts = [("layer", len(values))]  # one of its tensors may be of no use
            if explainer.per_call is not None:
                call.task.take_rows(task)
            found: tuple[Tensor, ...] = call.run()
        return found

    def run_all() -> Any:
        return explainer.result([of_layer(layer) for layer in explainer.layers(task)])

    return task.once(run_all)


def _of_examples(task: Task, layer: nn.Module, values: tuple[Tensor, ...], at_input: bool) -> bool:
    """Whether dimension 0 of a layer's values is that of the examples, where another one is as long: seen with one."""
    if task.examples < 2 or not any(task.examples in value.shape[1:] for value in values):
        return True
    inputs, additional = task.example(0)
    try:
        reading = read(task.forward_func, [layer], inputs, additional, at_input=at_input, every_use=True)
    except Exception:  # whatever a model's code makes of a batch that it does not take
        return True
    return all(value.dim() > 0 and value.shape[0] == 1 for value in reading.values[0])
