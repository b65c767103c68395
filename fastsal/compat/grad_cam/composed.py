"""pytorch-grad-cam's methods that are made of another: FinerCAM and RefineCAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat.grad_cam._rendering import scaled
from fastsal.compat.grad_cam.base_cam import BaseCAM, Targets, as_array
from fastsal.compat.grad_cam.methods import GradCAM, GradCAMPlusPlus
from fastsal.compat.grad_cam.utils.model_targets import FinerWeightedTarget
from fastsal.explainers.cam.base import ReshapeTransform

if TYPE_CHECKING:
    from typing_extensions import Self


class _Rivals:
    """A FinerWeightedTarget whose classes are those of the first output that it is called with."""

    def __init__(self, alpha: float, comparison_categories: Sequence[int] | None, target_idx: int | None) -> None:
        self.alpha, self.comparison_categories, self.target_idx = alpha, comparison_categories, target_idx
        self.chosen: FinerWeightedTarget | None = None

    def __call__(self, model_output: Tensor) -> Tensor:
        if self.chosen is None:
            self.chosen = self._choose(model_output.detach())
        return self.chosen(model_output)

    def _choose(self, scores: Tensor) -> FinerWeightedTarget:
        given = (
            range(1, 4)[: max(scores.numel() - 1, 0)]
            if self.comparison_categories is None
            else self.comparison_categories
        )
        if scores.dim() != 1 or not 0 <= max(given, default=-1) < len(scores):
            raise ValueError(
                f"comparison_categories: {list(given)} are no ranks of classes for an image's output "
                f"{tuple(scores.shape)}"
            )
        score = scores.max() if self.target_idx is None else scores[self.target_idx]
        order = (scores - score).abs().argsort(stable=True).tolist()
        return FinerWeightedTarget(order[0], [order[rank] for rank in given], self.alpha)


class Composed:
    """A method around ``base_cam``."""

    base_cam: BaseCAM

    @property
    def model(self) -> nn.Module:
        return self.base_cam.model

    @property
    def outputs(self) -> Any:
        """The model's of the last call."""
        return self.base_cam.outputs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class FinerCAM(Composed):
    """Zhang et al., "Finer-CAM" (CVPR 2025): what sets a class apart from those with the nearest scores.

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it (or their dotted names), whose maps are averaged.
        reshape_transform: function of a layer's value that returns [B, C, *spatial]; None goes by the
            layer's :class:`fastsal.Geometry`.
        base_method: one of the other classes.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAM,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)
        self.uses_gradients = self.base_cam.uses_gradients

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Targets = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> NDArray[np.float32]:
        """Maps float32 [B, H, W] in [0, 1]; [B, D, H, W] of volumes.

        Args:
            input_tensor: [B, C, H, W] or [B, C, D, H, W]; moved to the model's device.
            targets: one per image, in place of what the following make.
            eigen_smooth: the first principal component of the weighted activations instead of their sum.
            alpha: share of the compared scores that is taken off.
            comparison_categories: which classes are compared, as ranks: 1 has the score nearest to the target's. None
                takes the first three that there are.
            target_idx: the class to explain; None takes each image's of highest score.

        Raises:
            TypeError, ValueError: for arguments outside of the above, or ranks beyond the classes.
        """
        if targets is None:
            targets = [_Rivals(alpha, comparison_categories, target_idx) for _ in range(len(input_tensor))]
        return self.base_cam.forward(input_tensor, targets, eigen_smooth)

    forward = __call__


class RefineCAM(Composed):
    """The product of the layers' maps, from 0 to 1: a late layer's place, an early one's edges. One pass for all.

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it (or their dotted names), whose maps are averaged.
        reshape_transform: function of a layer's value that returns [B, C, *spatial]; None goes by the
            layer's :class:`fastsal.Geometry`.
        base_method: the class whose maps are multiplied.
        kwargs: further arguments of it.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAMPlusPlus,
        **kwargs: Any,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform, **kwargs)

    def __call__(
        self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False
    ) -> NDArray[np.float32]:
        """Maps float32 [B, H, W] in [0, 1]; [B, D, H, W] of volumes.

        Args:
            input_tensor: [B, C, H, W] or [B, C, D, H, W]; moved to the model's device.
            targets: one per image; None takes the class of highest score.
            eigen_smooth: the first principal component of the weighted activations instead of their sum.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        maps = self.base_cam.layer_maps(input_tensor, targets, eigen_smooth)
        each = [self.base_cam.aggregated([layer]) for layer in maps]
        return as_array(scaled(torch.stack(each).prod(0)))

    forward = __call__
