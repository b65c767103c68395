"""How benchmarks measure: on the device's clock, with the floor beside the figure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def settle() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call, the device's work included."""
    settle()
    began = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - began


@cache
def copy_bandwidth() -> float:
    """Bytes per second that a plain copy reads and writes here: what a byte floor is divided by."""
    elements = 2**28 if DEVICE == "cuda" else 2**25
    source = torch.zeros(elements, device=DEVICE)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() * source.element_size() / min(timed(lambda: target.copy_(source)) for _ in range(7))


def bench(benchmark: Any, work: Callable[[], Any], floor_bytes: int) -> None:
    """Time an implementation of an op, with the seconds that its bytes alone would take."""
    benchmark.extra_info["floor_bytes"] = floor_bytes
    benchmark.extra_info["floor_seconds"] = floor_bytes / copy_bandwidth()
    work()

    def settled() -> None:
        work()
        settle()

    benchmark.pedantic(settled, rounds=7, iterations=1, warmup_rounds=1)


def against_floor(
    benchmark: Any, work: Callable[[], Any], floor: Callable[[], Any], passes: str, repeats: int = 7
) -> None:
    """Time an explainer and its bare model passes in turn, and keep the ratio of each pair."""
    work()
    floor()
    pairs = []
    for index in range(repeats):
        if index % 2:
            bare, full = timed(floor), timed(work)
        else:
            full, bare = timed(work), timed(floor)
        pairs.append((full, bare))
    ratios = sorted(full / bare for full, bare in pairs)
    benchmark.extra_info.update(
        passes=passes,
        floor_seconds=statistics.median(bare for _, bare in pairs),
        seconds=statistics.median(full for full, _ in pairs),
        ratio=statistics.median(ratios),
        ratio_least=ratios[0],
        ratio_most=ratios[-1],
        # Of the fastest runs of each: what is left when the machine's other work is not counted.
        ratio_of_best=min(full for full, _ in pairs) / min(bare for _, bare in pairs),
    )
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
