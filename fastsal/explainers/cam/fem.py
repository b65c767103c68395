"""FEM: how often a channel is rare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fastsal.explainers.cam.base import ActivationMap, ReshapeTransform
from fastsal.ops import accumulation_dtype


class FEM(ActivationMap):
    """Fuad et al., "Features Understanding in 3D CNNs" (ICIP 2020): channels weighed by their share of rare positions.

    A position is rare where its activation is above mean + k standard deviations of its channel. Explains the layer,
    not a target. Costs one forward pass.

    Args:
        model, layer, reshape_transform: as of :class:`fastsal.GradCAM`.
        k: standard deviations above the mean.
    """

    needs_gradients = False

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: ReshapeTransform | None = None,
        k: float = 2.0,
    ) -> None:
        super().__init__(model, layer, reshape_transform=reshape_transform)
        self.k = k

    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        a, spatial = activations.to(accumulation_dtype(activations.dtype)), tuple(range(2, activations.dim()))
        level = a.mean(spatial, keepdim=True) + self.k * a.std(spatial, correction=0, keepdim=True)
        return (a > level).to(a.dtype).mean(spatial, keepdim=True)
