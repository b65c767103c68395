"""Seconds of work that is larger than an op: as a user feels it, and as the device does it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import settle, timed

ENOUGH = 1.0
"""Seconds after which no further call of one kind is made."""


def seconds_of(work: Callable[[], Any], most: int = 15) -> dict[str, Any]:
    """The median of warm calls, each with the wait for its result; how many there were, and the fastest."""
    work()
    found: list[float] = []
    while len(found) < most and (len(found) < 3 or sum(found) < ENOUGH):
        found.append(timed(work))
    return {"seconds": statistics.median(found), "least": min(found), "calls": len(found)}


def peak_bytes(work: Callable[[], Any], device: str) -> int | None:
    """The most that tensors held at once beyond what was held before; None where the device does not tell."""
    if device != "cuda":
        return None
    settle()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    settle()
    return torch.cuda.max_memory_allocated() - before


def kernels_of(work: Callable[[], Any], device: str) -> dict[str, int] | None:
    """How many kernels and copies a call launches, and how often the host waits, by the profiler."""
    if device != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    work()
    settle()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        work()
        settle()
    counts = {"kernels": 0, "copies": 0, "waits": -1}  # the last wait is ours
    for event in profiled.events():
        name = event.name
        if name.startswith(("cudaLaunchKernel", "cuLaunchKernel")):
            counts["kernels"] += 1
        elif name.startswith(("cudaMemcpy", "cudaMemset")):
            counts["copies"] += 1
        elif name in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"):
            counts["waits"] += 1
    return counts
