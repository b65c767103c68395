"""pytorch-grad-cam's methods that run the model once for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal import explainers
from fastsal.compat.grad_cam.ablation_layer import FAR_BELOW, AblationLayer
from fastsal.compat.grad_cam.base_cam import BaseCAM
from fastsal.explainers.cam.base import ActivationMap, ReshapeTransform

MASK_EPSILON = 1e-8


class _CornerAlignedScoreCAM(explainers.ScoreCAM):
    """Masks resized from corner to corner, then scaled."""

    def mask(self, channels: Tensor, size: list[int]) -> Tensor:
        mode = "bilinear" if len(size) == 2 else "trilinear"
        flat = F.interpolate(channels, size, mode=mode, align_corners=True).flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        masks: Tensor = ((flat - low) / (high - low + MASK_EPSILON)).unflatten(1, size)
        return masks


class ScoreCAM(BaseCAM):
    """:class:`fastsal.ScoreCAM` with masks resized from corner to corner.

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it (or their dotted names), whose maps are averaged.
        reshape_transform: function of a layer's value that returns [B, C, *spatial]; None goes by the
            layer's :class:`fastsal.Geometry`.

    Attributes:
        batch_size: rows per call of the model; None chooses it from memory.
    """

    uses_gradients = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        self.batch_size: int | None = None
        super().__init__(model, target_layers, reshape_transform)

    def explainer(self) -> ActivationMap:
        return _CornerAlignedScoreCAM(self.model, self.target_layers, reshape_transform=self.reshape_transform)

    def options(self, examples: int) -> dict[str, Any]:
        # A channel has as many rows as there are images.
        return {"perturbations_per_eval": None if self.batch_size is None else max(1, self.batch_size // examples)}


class _FarAblationCAM(explainers.AblationCAM):
    """Zero where the layer's minimum is 0, and far below the minimum elsewhere."""

    def replacement(self, value: Tensor) -> Tensor:
        low = value.flatten(1).amin(1)
        far = (low.double() - FAR_BELOW).clamp_min(torch.finfo(value.dtype).min).to(value.dtype)
        return torch.where(low == 0, low, far).reshape(-1, *[1] * (value.dim() - 1))


class AblationCAM(BaseCAM):
    """:class:`fastsal.AblationCAM` with pytorch-grad-cam's values for what is ablated.

    That is 0 for an image whose layer has the minimum 0, as after a ReLU; else the minimum less 1e7, for every channel
    (there it drifts by 1e7 from channel to channel of a batch: these are its maps of batch_size=1).

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it (or their dotted names), whose maps are averaged.
        reshape_transform: function of a layer's value that returns [B, C, *spatial]; None goes by the
            layer's :class:`fastsal.Geometry`.
        ablation_layer: where the layer's channels are; of no effect, since that is found.
        batch_size: channels per call of the rest of the model; None chooses it from memory.
        ratio_channels_to_ablate: 1, all.

    Raises:
        ValueError: for another ratio.
    """

    uses_gradients = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
        ablation_layer: AblationLayer | None = None,
        batch_size: int | None = None,
        ratio_channels_to_ablate: float = 1.0,
    ) -> None:
        if ratio_channels_to_ablate != 1:
            raise ValueError(
                f"ratio_channels_to_ablate: {ratio_channels_to_ablate} is not offered; all channels are ablated, of "
                "which only the part of the model behind the layer runs"
            )
        self.ablation_layer, self.batch_size = ablation_layer, batch_size
        self.ratio_channels_to_ablate = ratio_channels_to_ablate
        super().__init__(model, target_layers, reshape_transform)

    def explainer(self) -> ActivationMap:
        return _FarAblationCAM(self.model, self.target_layers, reshape_transform=self.reshape_transform)

    def options(self, examples: int) -> dict[str, Any]:
        return {"perturbations_per_eval": self.batch_size}
