"""pytorch-grad-cam's change of the score where an image is altered by its map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat.grad_cam.base_cam import Targets, read_targets
from fastsal.engine.run import evaluation

Perturbation = Callable[[Tensor, Tensor], Tensor]
PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class PerturbationConfidenceMetric:
    """The scores after a perturbation of each image by its map, less those before.

    Args:
        perturbation: function of an image [C, H, W] and its map [H, W], both on the CPU, that returns another image.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def __call__(
        self,
        input_tensor: Tensor,
        cams: NDArray[Any],
        targets: Targets,
        model: nn.Module,
        return_visualization: bool = False,
        return_diff: bool = True,
    ) -> Any:
        """float32 [B], and with ``return_visualization`` the altered images [B, C, H, W] beside it.

        Args:
            input_tensor: images [B, C, H, W].
            cams: maps [B, H, W].
            targets: one per image, called with that image's part of the output.
            model: a torch.nn.Module.
            return_visualization: return the altered images too.
            return_diff: take off the scores of the images as they are.

        Raises:
            TypeError, ValueError: for another number of targets or maps than there are images.
        """
        if len(cams) != len(input_tensor):
            raise ValueError(f"cams: {len(cams)} given for {len(input_tensor)} images; one each is needed")
        if targets is None:
            raise TypeError("targets: none given; pass one per image")
        pairs = zip(input_tensor.detach().cpu(), torch.from_numpy(np.asarray(cams)), strict=True)
        altered = torch.stack([self.perturbation(image, cam) for image, cam in pairs]).to(input_tensor.device)
        result = _scores(model, altered, targets)
        if return_diff:
            result = result - _scores(model, input_tensor, targets)
        return (result, altered) if return_visualization else result


def _scores(model: nn.Module, images: Tensor, targets: Targets) -> NDArray[np.float32]:
    given = read_targets(targets, len(images))
    with evaluation(model), torch.no_grad():
        output = model(images)
    scores = [np.float32(target(part).cpu().numpy()) for target, part in zip(given, output, strict=True)]
    return np.stack(scores)


class RemoveMostRelevantFirst:
    """A perturbation: what is at least a percentile of the map is imputed.

    Args:
        percentile: 0 to 100, or ``"auto"``: what Otsu's threshold leaves below it is imputed, as in the package.
        imputer: function of an image [C, H, W] and a mask [H, W], 0 where the image is to be replaced.
    """

    def __init__(self, percentile: float | Literal["auto"], imputer: Perturbation) -> None:
        self.percentile, self.imputer = percentile, imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        values = mask.cpu().numpy()
        kept: NDArray[Any]
        if isinstance(self.percentile, str):
            levels = (values * 255).astype(np.uint8)
            kept = np.where(levels > _otsu(levels), np.uint8(255), np.uint8(0))
        else:
            kept = np.float32(values < np.percentile(values, self.percentile))  # type: ignore[assignment]
        return self.imputer(input_tensor, torch.from_numpy(kept).to(mask.device))


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """The same for one less the map."""

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        return super().__call__(input_tensor, 1 - mask)


class AveragerAcrossThresholds:
    """The mean of a measure over percentiles.

    Args:
        imputer: class of the measure, which takes the percentile.
        percentiles: those.
    """

    def __init__(
        self,
        imputer: Callable[[float], PerturbationConfidenceMetric],
        percentiles: Sequence[float] = PERCENTILES,
    ) -> None:
        self.imputer, self.percentiles = imputer, list(percentiles)

    def __call__(
        self, input_tensor: Tensor, cams: NDArray[Any], targets: Targets, model: nn.Module
    ) -> NDArray[np.float32]:
        """float32 [B]; arguments as of :class:`PerturbationConfidenceMetric`."""
        found = [self.imputer(percentile)(input_tensor, cams, targets, model) for percentile in self.percentiles]
        mean: NDArray[np.float32] = np.mean(np.stack(found), axis=0)
        return mean


def _otsu(levels: NDArray[np.uint8]) -> int:
    """The level that parts a histogram into two classes of the greatest variance between them (Otsu, 1979)."""
    shares = np.bincount(levels.ravel(), minlength=256) / levels.size
    below = shares.cumsum()
    first = (shares * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (first[-1] * below - first) ** 2 / (below * (1 - below))
    inside = np.minimum(below, 1 - below) >= np.finfo(np.float32).eps
    return int(np.argmax(np.where(inside, between, 0.0)))
