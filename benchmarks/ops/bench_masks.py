"""masks: against the reference, and against RISE as most people write it (masks made by interpolate, then held)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import DEVICE, WAYS, bench
from fastsal.ops import masks

COUNT = 256 if DEVICE == "cuda" else 32


def plain_masks(count: int) -> Tensor:
    """Grids stretched over 8 cells by interpolate, then one random crop a mask."""
    grids = (torch.rand(count, 1, 7, 7, device=DEVICE) < 0.5).float()
    large = F.interpolate(grids, size=(256, 256), mode="bilinear", align_corners=False)
    corners = torch.randint(0, 32, (count, 2)).tolist()
    return torch.stack([mask[:, y : y + 224, x : x + 224] for mask, (y, x) in zip(large, corners, strict=True)])


@pytest.mark.benchmark(group="masks.batch")
@pytest.mark.parametrize("way", WAYS)
def bench_batch(benchmark: Any, way: str) -> None:
    image = torch.randn(1, 3, 224, 224, device=DEVICE)
    floor = (COUNT + 1) * image.numel() * 4
    bench(benchmark, way, lambda: masks.batch(image, 0, COUNT), lambda: plain_masks(COUNT) * image, floor)


@pytest.mark.benchmark(group="masks.fold")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("outputs", [1, 100])
def bench_fold(benchmark: Any, way: str, outputs: int) -> None:
    count = 8 * COUNT
    scores = torch.rand(count, outputs, device=DEVICE)
    floor = scores.numel() * 4 + outputs * 224 * 224 * 4
    held = plain_masks(count).flatten(1)
    bench(benchmark, way, lambda: masks.fold(scores, 0, (224, 224)), lambda: scores.T @ held, floor)
