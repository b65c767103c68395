"""Class activation maps that run the model many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from fastsal.explainers.arguments import at_least_one
from fastsal.explainers.cam.base import ActivationMap, ReshapeTransform


class SweptMap(ActivationMap):
    """Base of the class activation maps that run the model, or the part of it behind the layer, many times.

    Args:
        model, layer, reshape_transform: as of :class:`fastsal.GradCAM`.
        perturbations_per_eval: altered copies per model call; chosen from memory when None.
        show_progress: show a bar.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> None:
        super().__init__(model, layer, reshape_transform=reshape_transform)
        if perturbations_per_eval is not None:
            at_least_one("perturbations_per_eval", perturbations_per_eval)
        self.perturbations_per_eval = perturbations_per_eval
        self.show_progress = show_progress
