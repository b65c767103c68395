"""How benchmarks measure: on the device's clock, with the floor beside the figure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastsal.ops import backend, device_seconds
from fastsal.ops._define import Op

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


def host_seconds(work: Callable[[], Any], calls: int = 200, groups: int = 15) -> float:
    """What a warm call costs the host: the median of groups; the device is waited for between them, not in them."""
    found = []
    for _ in range(groups + 1):
        settle()
        began = time.perf_counter()
        for _ in range(calls):
            work()
        found.append((time.perf_counter() - began) / calls)
    settle()
    return statistics.median(found[1:])


@cache
def copy_bandwidth() -> float:
    """Bytes per second that a plain copy reads and writes here: what a byte floor is divided by."""
    # Random: memory may pack zeros.
    source = torch.rand(2**28 if DEVICE == "cuda" else 2**25, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / device_seconds(lambda: target.copy_(source), groups=7).least


WAYS = ("fastsal", "reference", "compiled", "plain")
"""Our op; its reference in PyTorch; that under torch.compile; and what one would write without either."""


def bench(benchmark: Any, way: str, ours: Callable[[], Any], plain: Callable[[], Any], floor_bytes: int) -> None:
    """Time an implementation of an op, with the seconds that its bytes alone would take."""
    benchmark.extra_info["floor_bytes"] = floor_bytes
    benchmark.extra_info["floor_seconds"] = floor_bytes / copy_bandwidth()
    work = {"plain": plain, "compiled": _compiled(ours) if way == "compiled" else ours}.get(way, ours)
    with backend("reference" if way == "reference" else "auto"):
        if DEVICE == "cuda":  # where pytest-benchmark's own figure is mostly the host's
            benchmark.extra_info["seconds"] = device_seconds(work).seconds
        else:
            work()

        def settled() -> None:
            work()
            settle()

        benchmark.pedantic(settled, rounds=7, iterations=1, warmup_rounds=1)


def _compiled(ours: Callable[[], Any]) -> Callable[[], Any]:
    """The references of the ops that a call runs, compiled, with the arguments that they got.

    What the call does beside its ops is not in it.
    """
    calls: list[tuple[Any, tuple[Any, ...]]] = []
    original = Op.__call__

    def record(op: Op, *args: Any) -> Tensor:
        calls.append((torch.compile(op.reference, dynamic=False), args))
        return original(op, *args)

    with mock.patch.object(Op, "__call__", record):
        ours()
    return lambda: [reference(*args) for reference, args in calls]


def against_floor(
    benchmark: Any,
    work: Callable[[], Any],
    floor: Callable[[], Any],
    passes: str,
    repeats: int = 7,
    memory: bool = False,
) -> None:
    """Time an explainer and its bare model passes in turn, and keep the ratio of each pair, and of peak memory."""
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
    if memory:
        benchmark.extra_info["ratio_of_peak_bytes"] = peak_bytes(work) / peak_bytes(floor)
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made inside held at once, counted when they are made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            # A view of what was there before, as of a weight, takes nothing; nor does a shape without values.
            if isinstance(leaf, Tensor) and not leaf.is_meta and leaf.untyped_storage()._cdata not in given:
                storage = leaf.untyped_storage()
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: value for key, value in self._live.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes of tensors that a call held at once, beside what was there before."""
    if DEVICE == "cuda":
        settle()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        settle()
        return int(torch.cuda.max_memory_allocated()) - before
    peak = PeakBytes()
    with peak:
        work()
    return peak.peak


def in_turn(
    benchmark: Any,
    ways: dict[str, Callable[[], Any]],
    repeats: int,
    facts: dict[str, Any] | None = None,
    memory: bool = False,
) -> None:
    """Time several ways to the same end in turn, each round beginning with another one.

    A way's ``ratio`` is the median over rounds of its seconds by the first way's of the same round.
    """
    for way in ways.values():
        way()
    found = rounds(ways, repeats)
    first = next(iter(found.values()))
    rows = [
        spread(name, seconds, first) | ({"peak_bytes": peak_bytes(ways[name])} if memory else {})
        for name, seconds in found.items()
    ]
    benchmark.extra_info.update(ways=rows, repeats=repeats, **(facts or {}))
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)


def rounds(ways: dict[str, Callable[[], Any]], repeats: int, warm_up: int = 0) -> dict[str, list[float]]:
    """Seconds of each way in each round, the rounds of a warm-up left out; each begins with another way."""
    names = list(ways)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(warm_up + repeats):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            seconds = timed(ways[name])
            if index >= warm_up:
                found[name].append(seconds)
    return found


def spread(name: str, seconds: list[float], first: list[float]) -> dict[str, Any]:
    """A way's seconds over rounds, and its ratios to the first way's of the same rounds."""
    ratios = sorted(a / b for a, b in zip(seconds, first, strict=True))
    return {
        "way": name,
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "ratio": statistics.median(ratios),
        "ratio_least": ratios[0],
        "ratio_most": ratios[-1],
    }


def growth(benchmark: Any, axis: str, points: dict[int, Callable[[], Any]], repeats: int = 3) -> None:
    """Time and peak memory along an axis: the fastest of some repeats at each point, taken in turn."""
    for work in points.values():
        work()
    seconds = {
        point: min(times)
        for point, times in zip(
            points, zip(*[[timed(work) for work in points.values()] for _ in range(repeats)], strict=True), strict=True
        )
    }
    benchmark.extra_info.update(
        axis=axis,
        points=[
            {"at": point, "seconds": seconds[point], "peak_bytes": peak_bytes(work)} for point, work in points.items()
        ],
    )
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)


def against_peer(
    benchmark: Any,
    work: Callable[[], Any],
    peer: Callable[[], Any],
    peer_at_best: Callable[[int], Callable[[], Any]] | None,
    floor: Callable[[], Any],
    repeats: int,
    sizes: tuple[int, ...] = (),
) -> None:
    """Time an explainer, a peer's (at its defaults, and at the fastest of its batch sizes) and the bare passes in turn.

    Each round runs all of them, beginning with another one; ratios are of the same round.
    """
    ways: dict[str, Callable[[], Any]] = {"seconds": work, "peer_seconds": peer, "floor_seconds": floor}
    best = None
    if peer_at_best is not None:
        best = min(sizes, key=lambda size: timed(peer_at_best(size)))
        ways["peer_best_seconds"] = peer_at_best(best)
    for way in ways.values():
        way()
    names = list(ways)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(repeats):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            found[name].append(timed(ways[name]))

    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(found[name], found[other], strict=True))

    benchmark.extra_info.update({name: statistics.median(seconds) for name, seconds in found.items()})
    benchmark.extra_info.update(
        repeats=repeats,
        peer_best_size=best,
        speedup=ratio("peer_seconds", "seconds"),
        speedup_over_best=ratio("peer_best_seconds", "seconds") if best is not None else None,
        over_floor=ratio("seconds", "floor_seconds"),
        over_floor_of_fastest=min(found["seconds"]) / min(found["floor_seconds"]),
        peak_bytes=peak_bytes(work),
        peer_peak_bytes=peak_bytes(peer),
        peer_best_peak_bytes=peak_bytes(ways["peer_best_seconds"]) if best is not None else None,
    )
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
