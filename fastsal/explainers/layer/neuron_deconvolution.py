"""Deconvolution of a neuron."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastsal.explainers.gradient.deconvolution import Deconvolution
from fastsal.explainers.layer._one_pass import NeuronOnePass


class NeuronDeconvolution(NeuronOnePass):
    """:class:`fastsal.Deconvolution` of a value of a layer: the gradient of a neuron under the rule for ReLUs.

    Costs one forward and one backward pass.

    >>> maps = fastsal.NeuronDeconvolution(model, "last").attribute(images, (3, 0, 0))

    Args:
        model: a torch.nn.Module in Python code.
        layer: one of its modules, or its dotted name.
        device_ids: accepted for Captum's sake.
    """

    summary = "Deconvolution of a layer's value"

    def __init__(self, model: nn.Module, layer: Any, device_ids: list[int] | None = None) -> None:
        super().__init__(model, layer, device_ids)
        self.method = Deconvolution(model)
