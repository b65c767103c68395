"""Neuron Gradient: what moves a neuron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from fastsal.explainers.gradient.saliency import Saliency
from fastsal.explainers.layer._one_pass import NeuronOnePass


class NeuronGradient(NeuronOnePass):
    """Gradient of a neuron by the inputs: :class:`fastsal.Saliency`, with its sign, of a layer's value.

    Costs one forward and one backward pass.

    >>> maps = fastsal.NeuronGradient(model, "last").attribute(images, (3, 0, 0))

    Args:
        forward_func: a torch.nn.Module, or a function around one.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
    """

    summary = "gradient of a layer's value by the input"
    options: ClassVar[dict[str, Any]] = {"abs": False}

    def __init__(self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None) -> None:
        super().__init__(forward_func, layer, device_ids)
        self.method = Saliency(self.forward_func)
