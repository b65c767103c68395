"""noise: against the reference, and against the draw, broadcast and moments most people would write."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.measure import DEVICE, WAYS, bench
from fastsal.ops import noise

COUNT = 256 if DEVICE == "cuda" else 32


@pytest.mark.benchmark(group="noise.batch")
@pytest.mark.parametrize("way", WAYS)
def bench_batch(benchmark: Any, way: str) -> None:
    image = torch.randn(1, 3, 224, 224, device=DEVICE)
    floor = (COUNT + 1) * image.numel() * 4
    bench(
        benchmark,
        way,
        lambda: noise.batch(image, 0, COUNT, std=0.1, seed=0),
        lambda: image + 0.1 * torch.randn(COUNT, 3, 224, 224, device=DEVICE),
        floor,
    )


@pytest.mark.benchmark(group="noise.fold")
@pytest.mark.parametrize("way", WAYS)
def bench_fold(benchmark: Any, way: str) -> None:
    values = torch.randn(COUNT, 3, 224, 224, device=DEVICE)
    floor = (COUNT + 2) * values[0].numel() * 4
    bench(
        benchmark,
        way,
        lambda: noise.fold(values, COUNT, second=True),
        lambda: (values.mean(0), values.var(0, correction=0)),
        floor,
    )
