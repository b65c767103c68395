"""The sweep: every item once and in order, whatever the batch size, and also where memory runs out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch

from fastsal.engine.run import Plan, sweep

CPU = torch.device("cpu")


class Work:
    """A step that notes what it commits, and runs out of memory above ``fits`` items or where told."""

    def __init__(self, fits: int = 10**9, error: BaseException | None = None, in_the_middle: bool = False) -> None:
        self.fits = fits
        self.error = error if error is not None else torch.OutOfMemoryError("no room")
        self.in_the_middle = in_the_middle
        self.done: list[int] = []
        self.tried: list[tuple[int, int]] = []
        self.held: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, start: int, stop: int) -> Callable[[], None]:
        self.tried.append((start, stop))
        batch = torch.zeros(stop - start, 4)
        self.held.append(weakref.ref(batch))
        if stop - start > self.fits and (not self.in_the_middle or start >= 8):
            raise self.error

        def commit() -> None:
            self.done.extend(range(start, stop))

        return commit


@pytest.mark.parametrize("total", [0, 1, 7, 32, 100])
@pytest.mark.parametrize("size", [None, 1, 3, 1000])
def test_each_item_once_in_order(total: int, size: int | None) -> None:
    work = Work()
    sweep(total, work, Plan(total, 2, 16, CPU, size))
    assert work.done == list(range(total))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("in_the_middle", [False, True])
def test_memory_that_runs_out_halves_the_batch(error: BaseException, in_the_middle: bool) -> None:
    work = Work(fits=3, error=error, in_the_middle=in_the_middle)
    sweep(30, work, Plan(30, 1, 16, CPU, 8))
    assert work.done == list(range(30))  # nothing lost, nothing twice
    assert max(stop - start for start, stop in work.tried[-5:]) <= 3
    assert len(work.tried) < 20  # the smaller size is kept


def test_one_item_that_does_not_fit() -> None:
    work = Work(fits=0)
    with pytest.raises(torch.OutOfMemoryError, match=r"one item.*no room"):
        sweep(30, work, Plan(30, 1, 16, CPU, 8))
    assert work.done == []
    assert [stop - start for start, stop in work.tried] == [8, 4, 2, 1]


def test_other_errors_are_not_touched() -> None:
    work = Work(fits=0, error=RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        sweep(30, work, Plan(30, 1, 16, CPU, 8))
    assert len(work.tried) == 1


def test_a_failed_batch_is_freed_before_the_next() -> None:
    """A handler that holds the exception holds its frames, and with them the batch that did not fit."""
    work = Work(fits=2)
    alive: list[int] = []

    def step(start: int, stop: int) -> Callable[[], None]:
        gc.disable()
        alive.append(sum(held() is not None for held in work.held))
        try:
            return work(start, stop)
        finally:
            gc.enable()

    sweep(12, step, Plan(12, 1, 16, CPU, 8))
    assert alive == [0] * len(alive)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    sweep(20, Work(), Plan(20, 1, 16, CPU, 8))
    assert capsys.readouterr().err == ""
    sweep(20, Work(), Plan(20, 1, 16, CPU, 8), show_progress=True, description="masks")
    assert "masks" in capsys.readouterr().err


def test_a_real_allocation_that_fails() -> None:
    """The CPU allocator's own error, for half a petabyte."""
    found: list[int] = []

    def step(start: int, stop: int) -> Callable[[], None]:
        if stop - start > 1:
            torch.empty(2**47, dtype=torch.float32)
        return lambda: found.extend(range(start, stop))

    sweep(5, step, Plan(5, 1, 16, CPU, 4))
    assert found == list(range(5))
