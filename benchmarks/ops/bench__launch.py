"""What a warm call of an op costs the host, beside an empty one: allocation of its result."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure import DEVICE, settle
from fastsal.ops import cam, masks, noise, path, windows

CALLS, GROUPS = 200, 15


def host_seconds(work: Callable[[], Any]) -> float:
    """Median over groups of calls; the device is waited for between groups, not in them."""
    found = []
    for _ in range(GROUPS + 1):
        settle()
        began = time.perf_counter()
        for _ in range(CALLS):
            work()
        found.append((time.perf_counter() - began) / CALLS)
    settle()
    return statistics.median(found[1:])


def works() -> dict[str, Callable[[], Tensor]]:
    x = torch.zeros(1, 1, 2, 2, device=DEVICE)
    alphas, scores, field = (torch.ones(1, device=DEVICE), torch.ones(1, 1, device=DEVICE), torch.ones_like(x))
    geometry: dict[str, Any] = {"window": (1, 1, 1), "stride": (1, 1, 1)}
    return {
        "windows.batch": lambda: windows.batch(x, 0, 1, **geometry),
        "windows.fold": lambda: windows.fold(scores.expand(4, 1), (1, 2, 2), **geometry),
        "masks.batch": lambda: masks.batch(x, 0, 1),
        "masks.accumulate": lambda: masks.accumulate(scores, 0, (2, 2)),
        "path.batch": lambda: path.batch(x, alphas),
        "path.fold": lambda: path.fold(x, alphas),
        "noise.batch": lambda: noise.batch(x, 0, 1, std=0.1, seed=0),
        "noise.fold": lambda: noise.fold(x, 1),
        "cam.map": lambda: cam.map(x, field, (2, 2)),
    }


@pytest.mark.benchmark(group="launch")
@pytest.mark.parametrize("op", list(works()))
def bench_launch(benchmark: Any, op: str) -> None:
    x = torch.zeros(1, 1, 2, 2, device=DEVICE)
    empty, work = lambda: torch.empty_like(x), works()[op]
    work()
    seconds, least = host_seconds(work), host_seconds(empty)
    benchmark.extra_info.update(op=op, host_seconds=seconds, empty_seconds=least)
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
