"""Guided Backprop of a neuron."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastsal.explainers.gradient.guided_backprop import GuidedBackprop
from fastsal.explainers.layer._one_pass import NeuronOnePass


class NeuronGuidedBackprop(NeuronOnePass):
    """:class:`fastsal.GuidedBackprop` of a value of a layer: the gradient of a neuron under the rule for ReLUs.

    Costs one forward and one backward pass.

    >>> maps = fastsal.NeuronGuidedBackprop(model, "last").attribute(images, (3, 0, 0))

    Args:
        model: a torch.nn.Module in Python code.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
    """

    summary = "Guided Backprop of a layer's value"

    def __init__(self, model: nn.Module, layer: Any, device_ids: list[int] | None = None) -> None:
        super().__init__(model, layer, device_ids)
        self.method = GuidedBackprop(model)
