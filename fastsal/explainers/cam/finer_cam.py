"""Finer-CAM: what sets a class apart from those that look like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run import host_may_wait
from fastsal.explainers.arguments import at_least_one
from fastsal.explainers.cam.base import Stated
from fastsal.explainers.cam.grad_cam import GradCAM
from fastsal.explainers.columns import Columns
from fastsal.explainers.outputs import main_output
from fastsal.explainers.scores import Target, one_score_each


class FinerCAM(GradCAM):
    """Zhang et al., "Finer-CAM" (CVPR 2025), equation 4: Grad-CAM of the score less its rivals' mean.

    The rivals are the classes whose scores are nearest to the target's, of an output [B, K]. Costs what Grad-CAM does.

    >>> maps = fastsal.FinerCAM(model, "last").attribute(images, target=classes)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions and influence on the target, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
        alpha: share of the rivals that is taken off; 0 is Grad-CAM.
        rivals: how many.
    """

    summary = "Grad-CAM of the score less its rivals'"
    exportable = False

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: Stated = None,
        alpha: float = 1.0,
        rivals: int = 3,
    ) -> None:
        super().__init__(model, layer, reshape_transform=reshape_transform)
        self.alpha, self.rivals = alpha, at_least_one("rivals", rivals)

    def scores(self, output: Any, target: Target, examples: int) -> Tensor:
        logits = main_output(output)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] <= self.rivals:
            raise ValueError(f"rivals: {self.rivals} need an output [B, K] with more classes")
        score = one_score_each(output, target, examples)
        distance = (logits - score[:, None]).detach().abs()
        foreign = distance.amin(1) > 0
        if not host_may_wait():
            score = torch.where(foreign, torch.nan, score)
        elif not isinstance(target, (int, Columns)) and bool(foreign.any()):
            raise ValueError("target: FinerCAM compares the scores of classes; pass the index of one")
        nearest = distance.argsort(dim=1, stable=True)[:, 1 : self.rivals + 1]
        return score - self.alpha * logits.gather(1, nearest).mean(1)
