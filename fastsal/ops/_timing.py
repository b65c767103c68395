"""How long a call takes on the device, so that neither the host nor a warm cache is in the figure."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from types import CellType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal._torch import sleep, tree_leaves, tree_map_only

GROUPS = 15
CACHES = 3
"""Buffers are as large as so many L2 caches together: what a call reads or writes is then gone when it comes again."""
CALLS = 8
"""At least so many in a group: events tell half a microsecond."""
COPIES = 256
USUAL_CACHE = 2**26
"""Bytes of an L2 cache where PyTorch does not tell."""
AHEAD_CYCLES = 10**6
"""Of the device, while the host issues a group that cannot be captured."""

Work = Callable[[], Any]


class Timing(NamedTuple):
    """How long a call takes.

    Attributes:
        seconds: median of groups of calls.
        least: of a call of the fastest group.
        how: "graph" where the calls were captured, "calls" where events were recorded round them, "host" off CUDA.
    """

    seconds: float
    least: float
    how: str


def device_seconds(work: Work, groups: int = GROUPS) -> Timing:
    """Seconds of one call, on the device's clock where that is CUDA.

    There, the calls of a group are one CUDA graph, so that what the host needs to launch them is not in the figure.
    They go round over copies of the tensors that ``work`` closes over, each with a result of its own, together more
    than three L2 caches. A call that waits for the device cannot be captured and is timed between events as it comes.
    Off CUDA the host's clock tells, after one call to warm up.

    Args:
        work: a call; a lambda or function over its tensors, which it may not change.
        groups: how often a group of calls is timed.
    """
    result = work()
    held = [*_closed_over(work), *(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))]
    if not _on_cuda(held):
        return _timing([_host_seconds(work) for _ in range(groups)], 1, "host")
    copies = _copies(sum(tensor.nbytes for tensor in held))
    del result, held
    works = [work, *(_copied(work) for _ in range(copies - 1))]
    calls = max(CALLS, copies)
    for each in works:
        each()
    graph = None if _waits(work) else _captured(works, calls)
    if graph is not None:
        graph.replay()
        return _timing([_event_seconds(graph.replay) for _ in range(groups)], calls, "graph")
    return _timing([_event_seconds(lambda: _run(works, calls), ahead=True) for _ in range(groups)], calls, "calls")


def _on_cuda(tensors: list[Tensor]) -> bool:
    return any(tensor.is_cuda for tensor in tensors)


def _timing(found: list[float], calls: int, how: str) -> Timing:
    return Timing(statistics.median(found) / calls, min(found) / calls, how)


def _host_seconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _event_seconds(work: Work, ahead: bool = False) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if ahead:
        sleep(AHEAD_CYCLES)
    began.record()
    work()
    ended.record()
    torch.cuda.synchronize()
    milliseconds: float = began.elapsed_time(ended)
    return milliseconds / 1e3


def _run(works: list[Work], calls: int) -> list[Any]:
    """The results, held together so that each has memory of its own."""
    return [works[index % len(works)]() for index in range(calls)]


def _copies(held_bytes: int) -> int:
    cache = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "L2_cache_size", 0) or USUAL_CACHE
    return min(COPIES, math.ceil(CACHES * cache / max(held_bytes, 1)))


def _cells(work: Work) -> tuple[CellType, ...]:
    return (work.__closure__ or ()) if isinstance(work, FunctionType) else ()


def _closed_over(work: Work) -> Iterator[Tensor]:
    for cell in _cells(work):
        yield from (leaf for leaf in tree_leaves(cell.cell_contents) if isinstance(leaf, Tensor))


def _copied(work: Work) -> Work:
    """The same function over copies of its tensors, in tuples, lists and dicts too."""
    if not isinstance(work, FunctionType) or not any(True for _ in _closed_over(work)):
        return work
    cells = [CellType(tree_map_only(Tensor, torch.clone, cell.cell_contents)) for cell in _cells(work)]
    copy = FunctionType(work.__code__, work.__globals__, work.__name__, work.__defaults__, tuple(cells))
    copy.__kwdefaults__ = work.__kwdefaults__
    return copy


def _waits(work: Work) -> bool:
    """Whether a call waits for the device; found out before a capture, since one that fails harms the process."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return False


def _captured(works: list[Work], calls: int) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # A stream of this device: the one that torch keeps for captures is of the device that captured first.
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        _run(works, calls)
    return graph
