"""DeepLIFT at a layer: what its values contribute to the change from a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastsal.engine.reading import check_unused, values_at
from fastsal.explainers.arguments import Baselines, Inputs
from fastsal.explainers.base import attribution
from fastsal.explainers.call import Call
from fastsal.explainers.gradient.deep_lift import Compared, Custom, DeepLift, Tensors
from fastsal.explainers.gradient.multipliers.differences import Differences
from fastsal.explainers.layer.layer_attribution import LayerAttribution
from fastsal.explainers.scores import Target
from fastsal.explainers.task import Task


class LayerDeepLift(LayerAttribution, DeepLift):
    """(a(x) - a(b)) times the multipliers of DeepLIFT by the values a of a layer, or of each of a list of layers.

    Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating Activation Differences" (ICML 2017),
    by the rules of :class:`fastsal.DeepLift` for what is behind the layer. Costs a forward pass of the
    baselines, one of the inputs, and one backward pass to the first layer.

    >>> maps = fastsal.LayerDeepLift(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module in Python code, with the examples as dimension 0 of its activations.
        layer: one of its modules or its dotted name, or a list of these.
        multiply_by_inputs: the factor a(x) - a(b); without it the multipliers are returned.

    Raises:
        TypeError: for what is not a module, or has compiled parts whose functions cannot be reached.
    """

    several = True
    summary = "a layer's differences from a baseline, sent back by the Rescale rule"
    cost = "2 forward, 1 backward to the layer"

    def __init__(self, model: nn.Module, layer: Any, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer)  # and the bases after it, as of the model alone
        self._multiply_by_inputs = multiply_by_inputs

    @attribution
    def attribute(  # type: ignore[override]
        self,
        inputs: Inputs,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Custom | None = None,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Call[Any]:
        """Attribution in the shape of the layer's value, a tuple where it has several tensors; a list for a list.

        Args:
            inputs: tensor [B, ...] or tuple of them, floating point.
            baselines: compared with: None (0), a number, a tensor that broadcasts, a tuple of these.
            target: which output to explain, one for all or one per example.
            additional_forward_args: further arguments of the model; per-example tensors are repeated for the baselines.
            return_convergence_delta: also return sum(attribution) - (F(x) - F(b)), [B]; of several layers together.
            attribute_to_layer_input: to the layer's input rather than its output.
            custom_attribution_func: (multipliers[, values[, values at the baselines]]), tuples of the tensors of all
                layers, into the attributions.
            grad_kwargs: accepted for Captum's sake, as far as it changes nothing: retain_graph, create_graph,
                allow_unused; materialize_grads gives zeros, with a warning, for a layer that the target does not use in
                any way.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or a model that mixes the examples.
        """
        task = self.task(inputs, target, additional_forward_args, baselines=baselines)
        given = grad_kwargs or {}
        unknown = set(given) - {"retain_graph", "create_graph", "allow_unused", "materialize_grads"}
        if unknown:
            raise ValueError(f"grad_kwargs: {sorted(unknown)[0]!r} has no place in DeepLIFT's one backward pass")
        return self.described(
            task,
            return_convergence_delta,
            custom_attribution_func,
            at_input=attribute_to_layer_input,
            unused=bool(given.get("materialize_grads")),
        )

    def compared(
        self,
        task: Task,
        ends: Tensors,
        starts: Tensors,
        count: int,
        at_input: bool = False,
        unused: bool = False,
    ) -> Compared:
        layers = self.layers(task)

        def unrelated(place: int, values: Tensors) -> None:
            given = ends, task.repeated(task.additional, count)
            check_unused(task.forward_func, layers[place], values, given, task.select(count), at_input)

        found, begun, sent, change = Differences(task, count, self.eps).at_layers(
            ends, starts, lambda: values_at(layers, at_input=at_input), unrelated if unused else None
        )
        rows = count * task.examples
        for tensor in (tensor for each in found for tensor in each):
            if tensor.dim() == 0 or tensor.shape[0] != rows:
                raise ValueError(
                    f"layer: its value of shape {tuple(tensor.shape)} does not have the {rows} rows of the call as "
                    "dimension 0; choose another layer"
                )
        sizes = [len(each) for each in found]

        def flat(by_layer: list[Tensors]) -> Tensors:
            return tuple(tensor for each in by_layer for tensor in each)

        def shaped(parts: Sequence[Tensor]) -> Any:
            each = iter(parts)
            return self.result([tuple(next(each) for _ in range(size)) for size in sizes])

        return Compared(flat(found), flat(begun), flat(sent), change, shaped, None)
