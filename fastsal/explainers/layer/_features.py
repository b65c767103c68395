"""The features of a layer that is ablated: given, or one for each of its positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.reading import Geometry, geometry_of
from fastsal.explainers.task import Task

POSITIONS = "positions"


def features_of(layer_mask: Any, task: Task, layer: nn.Module, values: Sequence[Tensor], at_input: bool) -> Any:
    """The feature of each value of a layer, as of ``feature_mask``.

    Args:
        layer_mask: as it was given; ``"positions"`` takes all channels of a position as one feature.
        task: what is explained.
        layer: a module of its model.
        values: the layer's, of all its runs.
        at_input: these are of its input.

    Raises:
        ValueError: for a text of another kind, or where the layer's positions are asked for and not known.
    """
    if not isinstance(layer_mask, str):
        return layer_mask
    if layer_mask != POSITIONS:
        raise ValueError(f"layer_mask: {layer_mask!r} is neither a mask nor {POSITIONS!r}")
    if all(value.dim() < 3 for value in values):
        return None  # each value is a place of its own
    if at_input:
        raise ValueError("layer_mask: positions are known of a layer's output, not of its input; pass a mask")
    masks, first = [], 0
    for run, value in enumerate(values):
        mask, first = _mask(geometry_of(task.model, layer, task.inputs, task.additional, run=run), value, first)
        masks.append(mask)
    return tuple(masks) if len(masks) > 1 else masks[0]


def _mask(geometry: Geometry, value: Tensor, first: int) -> tuple[Tensor, int]:
    """One run's, and the number after its last feature; the tokens of no position are one together."""
    shape = [1 if dim in (geometry.examples, geometry.channels) else extent for dim, extent in enumerate(value.shape)]
    count = math.prod(geometry.grid)
    mask = torch.full(shape, first + count, device=value.device)
    geometry.arrange(mask).copy_(torch.arange(first, first + count, device=value.device).view(1, 1, *geometry.size))
    return mask, first + count + (1 if geometry.before or geometry.behind else 0)
