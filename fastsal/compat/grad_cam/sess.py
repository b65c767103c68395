"""pytorch-grad-cam's SESS: maps of windows of an image in several sizes, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsal.compat.grad_cam._rendering import resized, scaled
from fastsal.compat.grad_cam.base_cam import BaseCAM, Targets, as_array
from fastsal.compat.grad_cam.composed import Composed
from fastsal.compat.grad_cam.methods import GradCAM
from fastsal.compat.grad_cam.utils.model_targets import ClassifierOutputTarget
from fastsal.engine.run import evaluation
from fastsal.explainers.cam.base import ReshapeTransform

Coordinates = tuple[int, int, int, int]
BLUR, SIGMA = 11, 5.0
"""Taps and standard deviation of the blur at the end, in pixels."""


class SESS(Composed):
    """Tursun et al., "SESS: Saliency Enhancing with Scaling and Sliding" (ECCV 2022).

    The image is resized to several sizes, windows of one size slide over each, and every window's map is weighed by its
    score, put back where it came from, and fused. Costs a pass for the score and a map of each window, in batches.

    Args:
        model: a torch.nn.Module.
        target_layers: modules of it (or their dotted names), whose maps are averaged.
        reshape_transform: function of a layer's value that returns [B, C, h, w].
        base_method: the class whose maps are fused.
        scales: sizes of the image's shorter side; None takes ``num_scales`` from the window's on.
        num_scales: how many sizes.
        scale_step_ratio: how much larger each is than the one before, in window sizes.
        window_size: of the square windows; None takes the image's shorter side.
        step_size: between windows; None takes their size.
        pre_filter_ratio: share of the windows of lowest score that is left out, from 0 to below 1.
        theta: values of a window's map that are at most this do not count in the mean.
        pool: ``mean`` of the windows over each pixel, or ``max``.
        smooth: blur the result.
        use_softmax_scores: score windows by the target on the softmax of the output; else on the output, at least 0.
        batch_size: windows per pass.
        kwargs: further arguments of ``base_method``.

    Raises:
        ValueError: for arguments outside of the above.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAM,
        scales: Sequence[int] | None = None,
        num_scales: int = 12,
        scale_step_ratio: float = 2.0 / 7.0,
        window_size: int | None = None,
        step_size: int | None = None,
        pre_filter_ratio: float = 0.0,
        theta: float = 0.0,
        pool: str = "mean",
        smooth: bool = True,
        use_softmax_scores: bool = True,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        if pool not in ("mean", "max"):
            raise ValueError(f"pool: {pool!r} is neither 'mean' nor 'max'")
        if not 0.0 <= pre_filter_ratio < 1.0:
            raise ValueError(f"pre_filter_ratio: {pre_filter_ratio} is not in [0, 1)")
        if num_scales < 1:
            raise ValueError(f"num_scales: {num_scales} is below 1")
        self.base_cam = base_method(model, target_layers, reshape_transform, **kwargs)
        self.scales, self.num_scales, self.scale_step_ratio = scales, num_scales, scale_step_ratio
        self.window_size, self.step_size, self.pre_filter_ratio = window_size, step_size, pre_filter_ratio
        self.theta, self.pool, self.smooth = theta, pool, smooth
        self.use_softmax_scores, self.batch_size = use_softmax_scores, batch_size

    def __call__(
        self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False
    ) -> NDArray[np.float32]:
        """Maps float32 [B, H, W] in [0, 1].

        Args:
            input_tensor: [B, C, H, W]; moved to the model's device.
            targets: one per image, called with an output [B, K] or [K]; None takes the class of highest score.
            eigen_smooth: of the windows' maps.

        Raises:
            ValueError: for another number of targets than there are images, or a size below the window's.
        """
        x = self.base_cam.as_input(input_tensor.detach())
        given: Sequence[Callable[..., Any] | None] = [None] * len(x) if targets is None else list(targets)
        if len(given) != len(x):
            raise ValueError(f"targets: {len(given)} given for {len(x)} images; one each is needed")
        pairs = zip(x, given, strict=True)
        return as_array(
            scaled(torch.stack([self._enhanced(each[None], target, eigen_smooth) for each, target in pairs]))
        )

    def forward(self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False) -> NDArray[np.float32]:
        """The same."""
        return self(input_tensor, targets, eigen_smooth)

    def forward_single_image(
        self, input_tensor: Tensor, target: Callable[..., Any] | None, eigen_smooth: bool = False
    ) -> NDArray[np.float32]:
        """The map [H, W] of one image [1, C, H, W], before it is scaled to [0, 1]."""
        return as_array(self._enhanced(self.base_cam.as_input(input_tensor), target, eigen_smooth))

    def _enhanced(self, image: Tensor, target: Callable[..., Any] | None, eigen_smooth: bool) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        window = min(size) if self.window_size is None else self.window_size
        step = window if self.step_size is None else self.step_size
        target = self.get_target(image) if target is None else target
        patches, coordinates = self.collect_patches(image, window, step)
        scores = self.get_scores(patches, target)
        order = np.argsort(scores)[int(len(scores) * self.pre_filter_ratio) :]
        highest = scores[order[-1]]
        weights = scores[order] / highest if highest > 0 else np.ones(len(order), np.float32)
        total, counts = (torch.zeros(size, device=image.device) for _ in range(2))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = torch.cat([patches[i] for i in chosen])
            maps = self.base_cam(batch, [target] * len(chosen), eigen_smooth=eigen_smooth)
            for cam, weight, index in zip(maps, weights[start : start + self.batch_size], chosen, strict=True):
                pasted = torch.from_numpy(self.paste_cam(cam * weight, coordinates[index], size)).to(image.device)
                if self.pool == "max":
                    total = torch.maximum(total, pasted)
                else:
                    counted = pasted > self.theta
                    total = torch.where(counted, total + pasted, total)
                    counts = counts + counted
        if self.pool == "mean":
            total = torch.where(counts > 0, total / counts.clamp_min(1), 0.0)
        return _blurred(total) if self.smooth else total

    def get_scales(self, window_size: int) -> list[int]:
        """The sizes of the image's shorter side."""
        if self.scales is not None:
            return list(self.scales)
        step = round(window_size * self.scale_step_ratio)
        return [window_size + step * index for index in range(self.num_scales)]

    def collect_patches(
        self, input_tensor: Tensor, window_size: int, step_size: int
    ) -> tuple[list[Tensor], list[Coordinates]]:
        """(windows [1, C, n, n], where each is from: left, top, width and height of the resized image)."""
        patches, coordinates = [], []
        for scale in self.get_scales(window_size):
            if scale < window_size:
                raise ValueError(f"scales: {scale} is below the window's size, {window_size}")
            resized_image = _resized_to(input_tensor, scale)
            height, width = resized_image.shape[-2:]
            for left, top in sliding_window(height, width, step_size, window_size):
                patches.append(resized_image[:, :, top : top + window_size, left : left + window_size])
                coordinates.append((left, top, width, height))
        return patches, coordinates

    def get_target(self, input_tensor: Tensor) -> ClassifierOutputTarget:
        """The class of highest score of an image [1, C, H, W]."""
        with evaluation(self.model), torch.no_grad():
            return ClassifierOutputTarget(int(self.model(input_tensor)[0].argmax()))

    def get_scores(self, patches: Sequence[Tensor], target: Callable[..., Any]) -> NDArray[np.float32]:
        """The target's score of each window, at least 0."""
        scores = []
        with evaluation(self.model), torch.no_grad():
            for start in range(0, len(patches), self.batch_size):
                output = self.model(torch.cat(list(patches[start : start + self.batch_size])))
                found = target(output.softmax(-1) if self.use_softmax_scores else output)
                scores.append(found.float().cpu().numpy())
        every: NDArray[np.float32] = np.maximum(np.concatenate(scores), 0)
        return every

    def paste_cam(
        self, cam: NDArray[Any], coordinates: Coordinates, target_size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """A window's map where it came from, in the image's size (height, width)."""
        left, top, width, height = coordinates
        whole = np.zeros((height, width), dtype=np.float32)
        whole[top : top + cam.shape[0], left : left + cam.shape[1]] = cam
        return as_array(resized(torch.from_numpy(whole)[None], target_size)[0])


def sliding_window(height: int, width: int, step_size: int, window_size: int) -> list[tuple[int, int]]:
    """(left, top) of the windows that cover an image; those beyond its border are moved back into it."""
    return [
        (left, top)
        for top in window_starts(height, step_size, window_size)
        for left in window_starts(width, step_size, window_size)
    ]


def window_starts(length: int, step_size: int, window_size: int) -> list[int]:
    """Where the windows begin along one side."""
    starts = []
    for start in range(0, length, step_size):
        if start + window_size >= length:
            starts.append(max(length - window_size, 0))
            break
        starts.append(start)
    return starts


def _resized_to(image: Tensor, shorter: int) -> Tensor:
    """Images [B, C, H, W] with a shorter side of so many pixels, linearly and smoothed, as torchvision's resize."""
    height, width = image.shape[-2:]
    if min(height, width) == shorter:
        return image
    longer = int(shorter * max(height, width) / min(height, width))
    size = (shorter, longer) if height <= width else (longer, shorter)
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def _blurred(image: Tensor) -> Tensor:
    """[H, W] blurred, mirrored around its outermost pixels."""
    at = torch.arange(BLUR, device=image.device, dtype=torch.float64) - (BLUR - 1) / 2
    taps = torch.exp(-(at**2) / (2 * SIGMA**2))
    taps = (taps / taps.sum()).to(image.dtype)
    padded = F.pad(image[None, None], [BLUR // 2] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, taps[None, None, :, None]), taps[None, None, None, :])[0, 0]
