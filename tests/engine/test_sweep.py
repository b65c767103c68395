"""The sweep: every item once and in order, whatever the batch size, and also where memory runs out."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from fastsal.engine.run import ChunkSizes, Sweep

CPU = torch.device("cpu")


class Work:
    """Work that runs out of memory above ``fits`` items or where told, and notes what is kept."""

    def __init__(self, fits: int = 10**9, error: BaseException | None = None, in_the_middle: bool = False) -> None:
        self.fits = fits
        self.error = error if error is not None else torch.OutOfMemoryError("no room")
        self.in_the_middle = in_the_middle
        self.done: list[int] = []
        self.tried: list[tuple[int, int]] = []
        self.held: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, start: int, stop: int) -> range:
        self.tried.append((start, stop))
        batch = torch.zeros(stop - start, 4)
        self.held.append(weakref.ref(batch))
        if stop - start > self.fits and (not self.in_the_middle or start >= 8):
            raise self.error

        return range(start, stop)

    def keep(self, start: int, stop: int, found: range) -> None:
        assert found == range(start, stop)
        self.done.extend(found)


@pytest.mark.parametrize("total", [0, 1, 7, 32, 100])
@pytest.mark.parametrize("size", [None, 1, 3, 1000])
def test_each_item_once_in_order(total: int, size: int | None) -> None:
    work = Work()
    Sweep(total, work, work.keep, ChunkSizes(total, 2, 16, CPU, size)).run()
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
    Sweep(30, work, work.keep, ChunkSizes(30, 1, 16, CPU, 8)).run()
    assert work.done == list(range(30))  # nothing lost, nothing twice
    assert max(stop - start for start, stop in work.tried[-5:]) <= 3
    assert len(work.tried) < 20  # the smaller size is kept


def test_one_item_that_does_not_fit() -> None:
    work = Work(fits=0)
    with pytest.raises(torch.OutOfMemoryError, match=r"one item.*no room"):
        Sweep(30, work, work.keep, ChunkSizes(30, 1, 16, CPU, 8)).run()
    assert work.done == []
    assert [stop - start for start, stop in work.tried] == [8, 4, 2, 1]


def test_other_errors_are_not_touched() -> None:
    work = Work(fits=0, error=RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        Sweep(30, work, work.keep, ChunkSizes(30, 1, 16, CPU, 8)).run()
    assert len(work.tried) == 1


def test_a_failed_batch_is_freed_before_the_next() -> None:
    """A handler that holds the exception holds its frames, and with them the batch that did not fit."""
    work = Work(fits=2)
    alive: list[int] = []

    def watched(start: int, stop: int) -> range:
        gc.disable()
        alive.append(sum(held() is not None for held in work.held))
        try:
            return work(start, stop)
        finally:
            gc.enable()

    Sweep(12, watched, work.keep, ChunkSizes(12, 1, 16, CPU, 8)).run()
    assert alive == [0] * len(alive)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work()
    Sweep(20, work, work.keep, ChunkSizes(20, 1, 16, CPU, 8)).run()
    assert capsys.readouterr().err == ""
    Sweep(20, work, work.keep, ChunkSizes(20, 1, 16, CPU, 8), "masks", True).run()
    assert "masks" in capsys.readouterr().err


def test_a_real_allocation_that_fails() -> None:
    """The CPU allocator's own error, for half a petabyte."""
    found: list[int] = []

    def work(start: int, stop: int) -> range:
        if stop - start > 1:
            torch.empty(2**47, dtype=torch.float32)
        return range(start, stop)

    Sweep(5, work, lambda start, stop, items: found.extend(items), ChunkSizes(5, 1, 16, CPU, 4)).run()
    assert found == list(range(5))
