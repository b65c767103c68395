"""ranks: against the reference, and against scattering each step's elements into a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure import DEVICE, WAYS, bench
from fastsal.ops import ranks

COUNT = 224 if DEVICE == "cuda" else 32


@pytest.mark.benchmark(group="ranks.batch")
@pytest.mark.parametrize("way", WAYS)
def bench_batch(benchmark: Any, way: str) -> None:
    image, other = (torch.randn(1, 3, 224, 224, device=DEVICE) for _ in range(2))
    order = torch.randperm(224 * 224, device=DEVICE)
    ranking = order.argsort().view(1, 224, 224)
    counts = torch.linspace(0, 224 * 224, COUNT, device=DEVICE).long()
    ends = counts.tolist()

    def plain() -> Tensor:
        out, source = image.repeat(COUNT, 1, 1, 1).flatten(2), other.flatten(2)[0]
        for row, end in zip(out, ends, strict=True):
            row[:, order[:end]] = source[:, order[:end]]
        return out

    floor = (COUNT + 2) * image.numel() * 4 + 224 * 224 * 8
    bench(benchmark, way, lambda: ranks.batch(image, other, ranking, counts), plain, floor)
