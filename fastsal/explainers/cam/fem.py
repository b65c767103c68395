"""FEM: how often a channel is rare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fastsal.explainers.cam.base import Stated
from fastsal.explainers.cam.one_pass import OnePassMap
from fastsal.explainers.cam.records import LayerValues
from fastsal.ops import accumulation_dtype


class FEM(OnePassMap):
    """Fuad et al., "Features Understanding in 3D CNNs" (ICIP 2020): channels weighed by their share of rare positions.

    A position is rare where its activation is above mean + k standard deviations of its channel. Explains the layer,
    not a target. Costs one forward pass.

    >>> maps = fastsal.FEM(model, "last").attribute(images)

    Args:
        model: a torch.nn.Module, or a callable around one.
        layer: one of its modules, its dotted name, or a list of these, whose maps are fused. None takes the last layer
            that has positions, at the first call.
        reshape_transform: function of a layer's value that returns [B, C, *spatial], or a
            :class:`fastsal.Geometry` that says where its positions are. None finds that out.
        k: standard deviations above the mean.
    """

    summary = "channels weighed by their share of rare positions; of no target"
    exportable = True

    def __init__(
        self,
        model: Callable[..., Any],
        layer: nn.Module | str | Sequence[nn.Module | str] | None = None,
        *,
        reshape_transform: Stated = None,
        k: float = 2.0,
    ) -> None:
        super().__init__(model, layer, reshape_transform=reshape_transform)
        self.k = k

    def fields(self, values: LayerValues) -> list[Tensor | None]:
        return [self._share_of_rare(each) for each in values.activations]

    def _share_of_rare(self, activations: Tensor) -> Tensor:
        a, spatial = activations.to(accumulation_dtype(activations.dtype)), tuple(range(2, activations.dim()))
        level = a.mean(spatial, keepdim=True) + self.k * a.std(spatial, correction=0, keepdim=True)
        return (a > level).to(a.dtype).mean(spatial, keepdim=True)
