"""Layers that run several times in one pass: of which one map is the layer's, and of which it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastsal._torch import tree_leaves
from fastsal.engine.reading import Reading, Unrelated, read
from fastsal.explainers.task import Task


def each_its_own(found: Reading, differentiated: bool, task: Task, layers: Sequence[nn.Module]) -> bool:
    """Whether a layer runs several times and the last does not take in what all the others do (as a shared ReLU's).

    Args:
        found: of a pass of the layers.
        differentiated: whether gradients were taken in it; else it costs another pass, for such a layer alone.
        task: what is explained.
        layers: that were read.
    """
    if max(map(len, found.uses)) == 1:
        return False
    if not differentiated:
        with contextlib.suppress(Unrelated):
            found = read(task.forward_func, layers, task.inputs, task.additional, any_score)
    return found.apart


def several_maps(found: Reading) -> ValueError:
    """Of such a layer whose runs do not look at an input each."""
    return ValueError(
        f"layer: the model runs it {max(map(len, found.uses))} times and depends on each use, each with a map of its "
        "own; choose one that runs once, or take LayerGradCam, which has a map for each"
    )


def any_score(output: Any) -> Tensor:
    """One number per example of whatever a model returns, to see what it depends on."""
    first = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return first.flatten(1).amax(1) if first.dim() > 1 else first
