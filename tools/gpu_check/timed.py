"""Seconds of work that is larger than an op: as a user feels it, and as the device does it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

ENOUGH = 1.0
"""Seconds after which no further call of one kind is made."""


def settle(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str, most: int = 15) -> dict[str, Any]:
    """The median of warm calls, each with the wait for its result; how many there were, and the fastest."""
    work()
    settle(device)
    found: list[float] = []
    while len(found) < most and (len(found) < 3 or sum(found) < ENOUGH):
        began = time.perf_counter()
        work()
        settle(device)
        found.append(time.perf_counter() - began)
    return {"seconds": statistics.median(found), "least": min(found), "calls": len(found)}


def side_by_side(works: dict[str, Callable[[], Any]], device: str, rounds: int = 5) -> dict[str, float]:
    """Median seconds of each, run in turn, so that what the card does meanwhile meets all of them alike."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for number in range(rounds):
        names = list(works)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            settle(device)
            began = time.perf_counter()
            works[name]()
            settle(device)
            found[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in found.items()}


def peak_bytes(work: Callable[[], Any], device: str) -> int | None:
    """The most that tensors held at once beyond what was held before; None where the device does not tell."""
    if device != "cuda":
        return None
    settle(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    settle(device)
    return torch.cuda.max_memory_allocated() - before


def kernels_of(work: Callable[[], Any], device: str) -> dict[str, int] | None:
    """How many kernels and copies a call launches, and how often the host waits, by the profiler."""
    if device != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    work()
    settle(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        work()
        settle(device)
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
