"""Class activation maps that run the model many times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastsal.explainers.cam.base import ActivationMap
from fastsal.explainers.scores import Target


class SweptMap(ActivationMap):
    """Base of the class activation maps that run the model, or the part of it behind the layer, many times.

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
    """

    per_call = "perturbations_per_eval"

    def refuse(self, targets: Sequence[Target] | None, create_graph: bool) -> None:
        """Refuses what needs a single pass.

        Raises:
            ValueError: for several targets, or a graph.
        """
        name = type(self).__name__
        if targets is not None:
            raise ValueError(f"targets: {name} makes its passes for one target; call it for each")
        if create_graph:
            raise ValueError(f"create_graph: {name} keeps no graph of its many passes; take HiResCAM")


def deviation(stdevs: Any) -> float:
    """A standard deviation as given.

    Raises:
        TypeError, ValueError: for what is no finite number of at least 0.
    """
    if isinstance(stdevs, bool) or not isinstance(stdevs, (int, float)):
        raise TypeError(f"stdevs: {type(stdevs).__name__} is not a number")
    if not (stdevs >= 0 and math.isfinite(stdevs)):
        raise ValueError(f"stdevs: {stdevs} is not a finite number of at least 0")
    return float(stdevs)
