"""Sweeps that end early: at a tolerance, at a deadline, or when whoever watches has seen enough."""

from __future__ import annotations

import contextlib
import math
import numbers
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.engine.run import ChunkSizes, chunks, tell
from fastsal.explainers.call import Anytime

GROUPS = 16
"""Of samples, whose spread tells the standard error within a fifth or so."""
RECENT = 8
MARGIN = 1.3
"""A chunk or an estimate is expected to take at most so much longer than the slowest of the recent ones."""


class Estimate(NamedTuple):
    """A map made from a part of the samples, and how far it may be off.

    Attributes:
        attribution: as ``attribute`` returns it.
        error: in the same form and shapes: the standard error of each element, infinite where there are too few samples
            to tell. Of Integrated Gradients it is what the last doubling of its points changed.
        relative_error: root mean square of ``error`` by the standard deviation of ``attribution`` over its elements
            (a constant cannot change what is more important than what), of the worst example. Integrated Gradients:
            by the root mean square instead, and not below the completeness gap as a share of sum(|attribution|).
        samples: masks, draws, coalitions, orders or points so far.
        seconds: since the call.
    """

    attribution: Any
    error: Any
    relative_error: float
    samples: int
    seconds: float


class Limits(NamedTuple):
    """When to stop.

    Attributes:
        tolerance: the relative error that is good enough.
        deadline: seconds, from the beginning of the call to its return.
        began: when that was.
    """

    tolerance: float | None
    deadline: float | None
    began: float


def limits_of(tolerance: Any, deadline: Any) -> Limits:
    """Limits that begin now.

    Raises:
        TypeError, ValueError: for what is neither None nor a number above 0.
    """
    for name, value in (("tolerance", tolerance), ("deadline", deadline)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name}: {value!r} is not a number")
        if not float(value) > 0:
            raise ValueError(f"{name}: {value} is not above 0")
    return Limits(tolerance, deadline, time.perf_counter())


def within(anytime: Anytime, limits: Limits) -> Estimate:
    """The estimate at the tolerance, at the deadline or of all items.

    Raises:
        ValueError: for too few items.
    """
    if anytime.refused and limits.tolerance is None and limits.deadline is None:
        raise ValueError(anytime.refused)
    estimates = list(until(anytime, limits, every=False))
    if not estimates:
        raise ValueError(f"{anytime.limit}: too few for an estimate")
    best = estimates[-1]
    if limits.tolerance is not None and limits.deadline is None and best.relative_error > limits.tolerance:
        tell(
            f"tolerance: {limits.tolerance} is not reached with {anytime.limit} (relative error "
            f"{best.relative_error:.3g}); allow more",
        )
    return best


def until(anytime: Anytime, limits: Limits, *, every: bool) -> Iterator[Estimate]:
    """Estimates until a limit: one after every chunk, or else a few, and the last."""
    pace = _Pace(anytime.sweep.chunk_sizes, limits)
    cost, measured, last = 0.0, 0, None
    growth = 1.25 if limits.tolerance is not None else 2.0
    sweep, limited = anytime.sweep, limits.tolerance is not None or limits.deadline is not None
    device = sweep.chunk_sizes.device
    running = chunks(sweep)

    def estimated(done: int) -> Estimate | None:
        nonlocal cost, measured
        before = time.perf_counter()
        found = anytime.estimate(done)
        _wait(device)
        cost, measured = time.perf_counter() - before, done
        return None if found is None else Estimate(*found, time.perf_counter() - limits.began)

    with contextlib.closing(running):
        before, done = time.perf_counter(), 0
        while done < sweep.total:
            with sweep.context():
                done = next(running)
                _wait(device)
                pace.took(done, time.perf_counter() - before)
                due = every or done == sweep.total or (limited and done >= growth * measured)
                # An estimate may take time in proportion to what it is made of; it is measured at every doubling.
                late = pace.is_late(cost * (done / measured if measured else 1.0))
                due = due or late
                if due or (limited and last is None):
                    last = estimated(done)
                    late = late or (last is not None and pace.is_late(cost))
                enough = last is not None and limits.tolerance is not None and last.relative_error <= limits.tolerance
            if last is not None and due:
                yield last
            if enough or (late and last is not None):
                return
            before = time.perf_counter()


class _Pace:
    """Chunks that end before a deadline: the first is of one item, the others grow with the time that it took.

    Args:
        sizes: of the chunks, which it bounds where there is a deadline.
        limits: with the deadline.
    """

    def __init__(self, sizes: ChunkSizes, limits: Limits) -> None:
        self._sizes, self._limits = sizes, limits
        self._recent: list[tuple[int, float]] = []
        self._done = 0
        if limits.deadline is not None:
            sizes.most = 1

    def took(self, done: int, seconds: float) -> None:
        """A chunk took so many seconds, after which so many items are done."""
        self._recent = [*self._recent[1 - RECENT :], (done - self._done, seconds)]
        self._done = done

    def is_late(self, estimate: float) -> bool:
        """Whether not even one item and an estimate, which takes so many seconds, can be expected to be in time.

        Else the next chunk has as many items as can, but at most four times as many as the last.
        """
        if self._limits.deadline is None:
            return False
        left = (self._limits.began + self._limits.deadline - time.perf_counter()) / MARGIN - estimate
        least = min(seconds for _, seconds in self._recent)
        each = max(seconds / items for items, seconds in self._recent[-2:])
        if left < least:
            return True
        self._sizes.most = max(1, min(4 * self._recent[-1][0], int(left / each)))
        return False


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative(maps: tuple[Tensor, ...], errors: tuple[Tensor, ...], *, centred: bool = True) -> float:
    """Of the worst entry of dimension 0: root mean square of the errors by the maps' standard deviation, or their root
    mean square where they are not centred. 0 by 0 is 0."""
    flat = torch.cat([each.to(torch.float64).flatten(1) for each in maps], 1)
    error = torch.cat([each.to(torch.float64).flatten(1) for each in errors], 1).square().mean(1)
    if centred:
        flat = flat - flat.mean(1, keepdim=True)
    ratio = (error / flat.square().mean(1)).where(error > 0, 0.0 * error)
    worst = float(ratio.max().sqrt())
    return worst if not math.isnan(worst) else math.inf
