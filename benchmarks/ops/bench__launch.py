"""What a warm call of an op costs the host, beside an empty one: allocation of its result."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.measure import DEVICE, host_seconds
from fastsal.ops._why import small_calls


@pytest.mark.benchmark(group="launch")
@pytest.mark.parametrize("op", list(small_calls("cpu")))
def bench_launch(benchmark: Any, op: str) -> None:
    x = torch.zeros(1, 1, 2, 2, device=DEVICE)
    empty, work = lambda: torch.empty_like(x), small_calls(DEVICE)[op]
    work()
    seconds, least = host_seconds(work), host_seconds(empty)
    benchmark.extra_info.update(op=op, host_seconds=seconds, empty_seconds=least)
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
