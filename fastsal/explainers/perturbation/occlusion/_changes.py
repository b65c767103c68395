"""Changes of an image in one place each: where they are, and what the image looks like there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastsal.explainers.perturbation.features import Baseline, absent_value
from fastsal.ops import patches, windows


class Changes(NamedTuple):
    """Changes of images [B, C, H, W], P of each.

    Attributes:
        rectangles: [P, 4], int64, on the CPU: top, bottom, left and right of each, the ends excluded.
        altered: (example, positions [n], starts [n, 2], size) into those parts of the changed example, [n, C, *size].
    """

    rectangles: Tensor
    altered: Callable[[int, Tensor, Tensor, tuple[int, int]], Tensor]

    def of(self, positions: Tensor) -> Changes:
        """Some of them, [n] in ascending order."""

        def altered(example: int, chosen: Tensor, starts: Tensor, size: tuple[int, int]) -> Tensor:
            return self.altered(example, positions[chosen.cpu()], starts, size)

        return Changes(self.rectangles[positions], altered)


def of_windows(images: Tensor, made: windows.Windows, baseline: Baseline) -> Changes:
    """A window of each image replaced by the baseline."""
    channels, (deep, tall, wide) = images.shape[1], made.window
    first, end = made.rectangles()
    rectangles = torch.stack([first[:, 1], end[:, 1], first[:, 2], end[:, 2]], 1)
    whole = deep == channels
    front, corners = (each.to(images.device) for each in (first[:, 0], first[:, 1:]))
    replacement = None if not isinstance(baseline, Tensor) else baseline.to(images).expand(images.shape)

    def altered(example: int, positions: Tensor, starts: Tensor, size: tuple[int, int]) -> Tensor:
        chosen = positions.to(images.device)
        image, origins = images[example : example + 1], corners[chosen]
        if replacement is None:
            patch = absent_value(baseline, images).expand(len(chosen), channels, tall, wide)
        else:
            patch = patches.gather(replacement[example : example + 1], origins, (tall, wide))
        changed = patches.gather(image, starts, size, patch=patch, origins=origins)
        if whole:
            return changed
        ahead = torch.arange(channels, device=images.device) - front[chosen, None]
        inside = ((ahead >= 0) & (ahead < deep))[:, :, None, None]
        return torch.where(inside, changed, patches.gather(image, starts, size))

    return Changes(rectangles, altered)


def of_features(images: Tensor, ids: Tensor, total: int, baseline: Baseline) -> Changes:
    """A feature of each image replaced by the baseline.

    Args:
        images: [B, C, H, W].
        ids: the feature of each element, int64, [1 or B, ...] that broadcasts to the images.
        total: number of features.
        baseline: a number, or a tensor that broadcasts to the images.
    """
    height, width = images.shape[2:]
    given = ids.reshape(*ids.shape[:1], *[1] * (4 - ids.dim()), *ids.shape[1:]).expand(ids.shape[0], *images.shape[1:])
    flat = given.reshape(-1).cpu()
    rows = torch.arange(height, device="cpu").view(-1, 1).expand(given.shape).reshape(-1)
    columns = torch.arange(width, device="cpu").expand(given.shape).reshape(-1)
    bounds = []
    for places, size in ((rows, height), (columns, width)):
        low = torch.full((total,), size - 1, device="cpu").scatter_reduce_(0, flat, places, "amin")
        high = torch.zeros(total, dtype=torch.int64, device="cpu").scatter_reduce_(0, flat, places + 1, "amax")
        bounds += [low, torch.maximum(high, low + 1)]
    replacement = absent_value(baseline, images).expand(images.shape)

    def altered(example: int, positions: Tensor, starts: Tensor, size: tuple[int, int]) -> Tensor:
        own = given[min(example, given.shape[0] - 1)][None]
        parts = [
            patches.gather(each, starts, size) for each in (own, images[example][None], replacement[example][None])
        ]
        where, image, absent = parts
        return torch.where(where == positions.to(images.device).view(-1, 1, 1, 1), absent, image)

    return Changes(torch.stack(bounds, 1), altered)
