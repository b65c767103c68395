"""What explainers of a layer share: the layer, by module or by name, and resizing its maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.engine.reading import Reading, read, resolvable, resolve_layer, resolve_layers
from fastsal.explainers.base import Display, GradientAttribution, Reads
from fastsal.explainers.task import Task

Layers = nn.Module | str | list[nn.Module | str]


class LayerAttribution(GradientAttribution):
    """Base of the explainers that attribute to a layer.

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake. A DataParallel model runs on its first device.
    """

    reads: ClassVar[Reads] = "layer"
    shape = "layer"
    display = Display("range", 100.0)
    layer: Any
    several = False
    """Whether a list of layers is accepted, with a list of results."""

    def __init__(self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None) -> None:
        # Replicas would run hooks in threads, each on a part of the batch.
        super().__init__(forward_func.module if isinstance(forward_func, nn.DataParallel) else forward_func)
        if isinstance(layer, (list, tuple)):
            if not self.several:
                raise TypeError(f"layer: {type(layer).__name__} given, but {type(self).__name__} explains one layer")
            if not layer:
                raise ValueError("layer: the list is empty")
        given = layer if isinstance(layer, (list, tuple)) else [layer]
        if resolvable(self.forward_func, given):
            given = [resolve_layer(self.forward_func, entry) for entry in given]
        self.layer = list(given) if isinstance(layer, (list, tuple)) else given[0]
        self.device_ids = device_ids

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """A layer's attribution resized.

        Args:
            layer_attribution: [B, C, *spatial], one to three spatial dimensions.
            interpolate_dims: spatial size of the result, one int for all dimensions or one each.
            interpolate_mode: of ``torch.nn.functional.interpolate``.

        Returns:
            [B, C, *interpolate_dims].
        """
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)

    def layers(self, task: Task) -> Sequence[nn.Module]:
        """The layers' modules, for a call."""
        several = isinstance(self.layer, list)
        given = self.layer if several else [self.layer]
        found = resolve_layers(self.forward_func, given, task.inputs, task.additional)
        self.layer = found if several else found[0]
        return found

    def read(self, task: Task, at_input: bool, grad_kwargs: dict[str, Any] | None) -> Reading:
        """One pass, with the values at every use of the layers and the gradients of the target by them."""
        return read(
            task.forward_func,
            self.layers(task),
            task.inputs,
            task.additional,
            task.select(),
            at_input=at_input,
            every_use=True,
            create_graph=task.create_graph,
            note=task.note,
            grad_kwargs=grad_kwargs,
        )

    def read_copies(
        self,
        task: Task,
        count: int,
        batches: tuple[Tensor, ...],
        at_input: bool,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        forward_func: Callable[..., Any] | None = None,
    ) -> Reading:
        """The same for copies of the inputs [count * B, ...], or for what runs instead of the model."""
        return read(
            task.forward_func if forward_func is None else forward_func,
            self.layers(task),
            batches,
            task.repeated(task.additional, count),
            task.select(count),
            at_input=at_input,
            every_use=True,
            grad_kwargs=grad_kwargs,
        )

    def with_delta(self, task: Task, by_layer: Sequence[Sequence[Tensor]]) -> tuple[Any, Any]:
        """(the result, sum(attribution) - (F(x) - F(b)) [B] of the task); of a list of layers a list of these."""
        deltas = [task.delta(tensors) for tensors in by_layer]
        return self.result(by_layer), deltas if isinstance(self.layer, list) else deltas[0]

    def result(self, by_layer: Sequence[Sequence[Tensor]]) -> Any:
        """A tensor per layer, or a tuple where it has several or several uses; a list of these for a list of layers."""
        results = [tuple(tensors) if len(tensors) > 1 else tensors[0] for tensors in by_layer]
        return results if isinstance(self.layer, list) else results[0]
