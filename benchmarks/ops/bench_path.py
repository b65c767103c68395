"""path: against the reference, and against the one-line broadcast and sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.measure import DEVICE, WAYS, bench
from fastsal.ops import path

COUNT = 256 if DEVICE == "cuda" else 32


@pytest.mark.benchmark(group="path.batch")
@pytest.mark.parametrize("way", WAYS)
def bench_batch(benchmark: Any, way: str) -> None:
    image, baseline = (torch.randn(1, 3, 224, 224, device=DEVICE) for _ in range(2))
    alphas = torch.linspace(0, 1, COUNT, device=DEVICE)
    floor = (COUNT + 2) * image.numel() * 4
    bench(
        benchmark,
        way,
        lambda: path.batch(image, alphas, baseline=baseline),
        lambda: baseline + alphas.view(-1, 1, 1, 1) * (image - baseline),
        floor,
    )


@pytest.mark.benchmark(group="path.fold")
@pytest.mark.parametrize("way", WAYS)
def bench_fold(benchmark: Any, way: str) -> None:
    image, baseline = (torch.randn(1, 3, 224, 224, device=DEVICE) for _ in range(2))
    gradients = torch.randn(COUNT, 3, 224, 224, device=DEVICE)
    weights = torch.rand(COUNT, device=DEVICE)
    floor = (COUNT + 3) * image.numel() * 4
    bench(
        benchmark,
        way,
        lambda: path.fold(gradients, weights, input=image, baseline=baseline),
        lambda: (image - baseline) * (weights.view(-1, 1, 1, 1) * gradients).sum(0, True),
        floor,
    )
