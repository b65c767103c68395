"""patches: against the reference, and against a slice and a paste for each region."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure import DEVICE, WAYS, bench
from fastsal.ops import patches

COUNT = 256 if DEVICE == "cuda" else 32


@pytest.mark.benchmark(group="patches.gather")
@pytest.mark.parametrize("way", WAYS)
def bench_gather(benchmark: Any, way: str) -> None:
    cached = torch.randn(1, 64, 56, 56, device=DEVICE).contiguous(memory_format=torch.channels_last)
    patch = torch.randn(COUNT, 64, 10, 10, device=DEVICE).contiguous(memory_format=torch.channels_last)
    origins = torch.randint(0, 46, (COUNT, 2), device=DEVICE)
    starts = origins - 1
    rows = starts.tolist()

    def plain() -> Tensor:
        padded = torch.nn.functional.pad(cached, (1, 1, 1, 1))
        out = torch.cat([padded[:, :, y + 1 : y + 13, x + 1 : x + 13] for y, x in rows])
        out[:, :, 1:11, 1:11] = patch
        return out

    floor = 2 * COUNT * 64 * 12 * 12 * 4
    bench(benchmark, way, lambda: patches.gather(cached, starts, (12, 12), patch=patch, origins=origins), plain, floor)
