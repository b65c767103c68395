"""windows: against the reference, and against a loop that copies the image and fills a slice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure import DEVICE, WAYS, bench
from fastsal.ops import windows

COUNT = 256 if DEVICE == "cuda" else 32
GEOMETRY: dict[str, Any] = {"window": (3, 16, 16), "stride": (3, 8, 8)}


@pytest.mark.benchmark(group="windows.batch")
@pytest.mark.parametrize("way", WAYS)
def bench_batch(benchmark: Any, way: str) -> None:
    image = torch.randn(1, 3, 224, 224, device=DEVICE)
    floor = (COUNT + 1) * image.numel() * 4

    def plain() -> Tensor:
        batch = image.repeat(COUNT, 1, 1, 1)
        for index in range(COUNT):
            y, x = 8 * (index // 27), 8 * (index % 27)
            batch[index, :, y : y + 16, x : x + 16] = 0
        return batch

    bench(benchmark, way, lambda: windows.batch(image, 0, COUNT, **GEOMETRY), plain, floor)


@pytest.mark.benchmark(group="windows.fold")
@pytest.mark.parametrize("way", WAYS)
def bench_fold(benchmark: Any, way: str) -> None:
    differences = torch.randn(27 * 27, 1, device=DEVICE)
    floor = (differences.numel() + 3 * 224 * 224) * 4

    def plain() -> Tensor:
        total = torch.zeros(3, 224, 224, device=DEVICE)
        number = torch.zeros(3, 224, 224, device=DEVICE)
        for index in range(27 * 27):
            y, x = 8 * (index // 27), 8 * (index % 27)
            total[:, y : y + 16, x : x + 16] += differences[index]
            number[:, y : y + 16, x : x + 16] += 1
        return total / number

    bench(benchmark, way, lambda: windows.fold(differences, (3, 224, 224), **GEOMETRY), plain, floor)
