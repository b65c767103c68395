"""Layers that run several times in one pass: of which one map is the layer's, and of which it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastsal._torch import tree_leaves
from fastsal.engine.reading import Reading, Unrelated, read
from fastsal.explainers.task import Task


def check_uses(found: Reading, differentiated: bool, task: Task, layers: Sequence[nn.Module]) -> None:
    """Refuses a layer that runs several times, unless its last use takes in what all the others do (a shared ReLU).

    Args:
        found: of a pass of the layers.
        differentiated: whether gradients were taken in it; else it costs another pass, for such a layer alone.
        task: what is explained.
        layers: that were read.

    Raises:
        ValueError: for such a layer.
    """
    times = max(map(len, found.uses))
    if times == 1:
        return
    if not differentiated:
        with contextlib.suppress(Unrelated):
            found = read(task.forward_func, layers, task.inputs, task.additional, any_score)
    if found.apart:
        raise ValueError(
            f"layer: the model runs it {times} times and depends on each use, each with a map of its own; choose one "
            "that runs once, or take LayerGradCam, which has a map for each"
        )


def any_score(output: Any) -> Tensor:
    """One number per example of whatever a model returns, to see what it depends on."""
    first = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return first.flatten(1).amax(1) if first.dim() > 1 else first
