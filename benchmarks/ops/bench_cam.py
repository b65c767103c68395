"""cam: against the reference, and against the usual chain of mean, sum, relu, interpolate and min-max."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import DEVICE, WAYS, bench
from fastsal.ops import cam


def plain_map(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM's epilogue in plain PyTorch."""
    weights = gradients.mean((2, 3), keepdim=True)
    maps = F.interpolate((weights * activations).sum(1, True).relu(), (224, 224), mode="bilinear")[:, 0]
    low, high = maps.amin((1, 2), True), maps.amax((1, 2), True)
    return (maps - low) / (high - low + 1e-8)


@pytest.mark.benchmark(group="cam.map")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("images", [1, 16])
def bench_map(benchmark: Any, way: str, images: int) -> None:
    activations, gradients = (torch.randn(images, 2048, 7, 7, device=DEVICE) for _ in range(2))
    floor = (2 * activations.numel() + images * 224 * 224) * 4
    bench(
        benchmark,
        way,
        lambda: cam.map(activations, gradients, (224, 224)),
        lambda: plain_map(activations, gradients),
        floor,
    )


@pytest.mark.benchmark(group="cam.overlay")
@pytest.mark.parametrize("way", WAYS)
def bench_overlay(benchmark: Any, way: str) -> None:
    activations, gradients = (torch.randn(16, 2048, 7, 7, device=DEVICE) for _ in range(2))
    image = torch.randint(0, 256, (16, 224, 224, 3), dtype=torch.uint8, device=DEVICE)
    colours = torch.randint(0, 256, (256, 3), dtype=torch.uint8, device=DEVICE)
    floor = 2 * activations.numel() * 4 + 2 * image.numel()

    def plain() -> Tensor:
        level = (plain_map(activations, gradients) * 255 + 0.5).long()
        return (0.5 * image.float() + 0.5 * colours[level].float() + 0.5).to(torch.uint8)

    bench(benchmark, way, lambda: cam.overlay(activations, gradients, image, colours), plain, floor)
