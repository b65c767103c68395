"""pytorch-grad-cam's methods of one pass, each fastsal's formula of the same name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastsal import explainers
from fastsal.compat.grad_cam.base_cam import BaseCAM
from fastsal.explainers.cam.base import ActivationMap, ReshapeTransform
from fastsal.explainers.cam.one_pass import OnePassMap
from fastsal.explainers.cam.records import LayerValues


class _Direct(BaseCAM):
    """A method that fastsal has under ``source``."""

    source: type[ActivationMap]

    def explainer(self) -> ActivationMap:
        return self.source(self.model, self.target_layers, reshape_transform=self.reshape_transform)


class GradCAM(_Direct):
    """:class:`fastsal.GradCAM`."""

    source = explainers.GradCAM


class HiResCAM(_Direct):
    """:class:`fastsal.HiResCAM`."""

    source = explainers.HiResCAM


class GradCAMElementWise(_Direct):
    """:class:`fastsal.GradCAMElementWise`."""

    source = explainers.GradCAMElementWise


class GradCAMPlusPlus(_Direct):
    """:class:`fastsal.GradCAMPlusPlus`; of volumes too."""

    source = explainers.GradCAMPlusPlus


class XGradCAM(_Direct):
    """:class:`fastsal.XGradCAM`; of volumes too."""

    source = explainers.XGradCAM


class LayerCAM(_Direct):
    """:class:`fastsal.LayerCAM`."""

    source = explainers.LayerCAM


class ShapleyCAM(_Direct):
    """:class:`fastsal.ShapleyCAM`."""

    source = explainers.ShapleyCAM


class EigenCAM(_Direct):
    """:class:`fastsal.EigenCAM`; targets and eigen_smooth are of no effect."""

    source = explainers.EigenCAM
    uses_gradients = needs_targets = smooths = False


class EigenGradCAM(_Direct):
    """:class:`fastsal.EigenGradCAM`; eigen_smooth is of no effect."""

    source = explainers.EigenGradCAM
    smooths = False


class _AbsoluteEigenGradCAM(explainers.EigenGradCAM):
    def field(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return gradients.abs()


class SegEigenCAM(_Direct):
    """The first principal component of |G| A, so signed that its largest value is positive; for segmentation.

    Chung and Ying, "Seg-Eigen-CAM" (Applied Sciences 2025). eigen_smooth is of no effect.
    """

    source = _AbsoluteEigenGradCAM
    smooths = False

    def combined(
        self, explainer: ActivationMap, activations: Tensor, field: Tensor | None, eigen_smooth: bool
    ) -> Tensor:
        projection = super().combined(explainer, activations, field, eigen_smooth)
        flat = projection.flatten(1)
        opposed = flat.amin(1).abs() > flat.amax(1).abs()
        return torch.where(opposed.view(-1, *[1] * (projection.dim() - 1)), -projection, projection)


class _GlobalRandomCAM(OnePassMap):
    def fields(self, values: LayerValues) -> list[Tensor | None]:
        return [_drawn(each) for each in values.activations]


def _drawn(activations: Tensor) -> Tensor:
    drawn = torch.from_numpy(np.random.uniform(-1, 1, size=tuple(activations.shape[:2])))
    return drawn.to(activations).reshape(*activations.shape[:2], *[1] * (activations.dim() - 2))


class RandomCAM(_Direct):
    """Channels weighed by uniform numbers of [-1, 1], for each image its own, from NumPy's global generator."""

    source = _GlobalRandomCAM
    uses_gradients = needs_targets = False


class FEM(BaseCAM):
    """:class:`fastsal.FEM`; targets and eigen_smooth are of no effect.

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it (or their dotted names), whose maps are averaged.
        reshape_transform: function of a layer's value that returns [B, C, *spatial]; None goes by the
            layer's :class:`fastsal.Geometry`.
        k: standard deviations above the mean.
    """

    uses_gradients = needs_targets = smooths = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
        k: float = 2,
    ) -> None:
        self.k = k
        super().__init__(model, target_layers, reshape_transform)

    def explainer(self) -> ActivationMap:
        return explainers.FEM(self.model, self.target_layers, reshape_transform=self.reshape_transform, k=self.k)


class KPCA_CAM(BaseCAM):
    """:class:`fastsal.KPCACAM`; targets and eigen_smooth are of no effect.

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it (or their dotted names), whose maps are averaged.
        reshape_transform: function of a layer's value that returns [B, C, *spatial]; None goes by the
            layer's :class:`fastsal.Geometry`.
        kernel: ``sigmoid`` (tanh(gamma x y + 1)), ``rbf`` (exp(-gamma |x - y|^2)), ``cosine`` or ``linear``.
        gamma: None takes one over the number of channels.
    """

    uses_gradients = needs_targets = smooths = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
    ) -> None:
        self.kernel, self.gamma = kernel, gamma
        super().__init__(model, target_layers, reshape_transform)

    def explainer(self) -> ActivationMap:
        transform = self.reshape_transform
        return explainers.KPCACAM(
            self.model, self.target_layers, reshape_transform=transform, kernel=self.kernel, gamma=self.gamma
        )
