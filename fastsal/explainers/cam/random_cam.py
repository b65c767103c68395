"""RandomCAM: the control that a class activation map must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.explainers.cam.base import ActivationMap, ReshapeTransform
from fastsal.explainers.seeds import generator


class RandomCAM(ActivationMap):
    """Channels weighed by uniform numbers of [-1, 1], the same for all examples. Costs one forward pass.

    Args:
        model, layer, reshape_transform: as of :class:`fastsal.GradCAM`.
        seed: chooses the weights; None draws it from torch's global generator.
    """

    needs_gradients = False

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__(model, layer, reshape_transform=reshape_transform)
        self.seed = seed

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        shape = (1, activations.shape[1], *[1] * (activations.dim() - 2))
        return (torch.rand(shape, generator=generator(self.seed), device="cpu") * 2 - 1).to(activations)
