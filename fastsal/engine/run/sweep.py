"""Sweep: generate a batch of altered inputs, score it with the model, fold the scores into the map; repeat."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from fastsal.engine.run.chunk_sizes import ChunkSizes
from fastsal.engine.run.independence import Coupled, Rows
from fastsal.engine.run.own import Undone
from fastsal.engine.run.telling import tell
from fastsal.engine.run.too_large import is_too_large

Kept = TypeVar("Kept")


class Swept(NamedTuple):
    """What a sweep did.

    Attributes:
        description: the method's name.
        total: items (masks, windows, steps).
        sizes: items of each chunk, in order.
        retried: chunks that did not fit and were halved.
        seconds: wall-clock; on a GPU, until the last chunk was issued.
        alone: why there was one item in each model call, where more were wanted.
    """

    description: str
    total: int
    sizes: tuple[int, ...]
    retried: int
    seconds: float
    alone: str = ""

    def __str__(self) -> str:
        halved = f", {self.retried} halved for want of memory" if self.retried else ""
        most = max(self.sizes, default=0)
        return (
            f"{self.description}: {self.total} in {len(self.sizes)} model calls of at most {most}{halved}, "
            f"{self.seconds:.3f} s{self.alone and f'; one at a time: {self.alone}'}"
        )


Watcher = Callable[[str, int, int], None]
"""What is told of a sweep after each chunk: the method's name, the items that are done, and how many there are."""


class _Observers(NamedTuple):
    """Who is told of sweeps."""

    found: list[Swept] | None = None
    watcher: Watcher | None = None


_observers: contextvars.ContextVar[_Observers] = contextvars.ContextVar("fastsal sweeps", default=_Observers())  # noqa: B039


@contextlib.contextmanager
def observed() -> Iterator[list[Swept]]:
    """What the sweeps inside did; one of another ``observed()`` inside is that one's."""
    found: list[Swept] = []
    with Undone() as undone:
        undone.set(_observers, _observers.get()._replace(found=found))
        yield found


@contextlib.contextmanager
def watched(told: Watcher) -> Iterator[None]:
    """Tell of every chunk of the sweeps inside, in the thread that runs them."""
    with Undone() as undone:
        undone.set(_observers, _observers.get()._replace(watcher=told))
        yield


def note(swept: Swept) -> None:
    """Tell whoever observes of sweeps that count as one."""
    observer = _observers.get().found
    if observer is not None:
        observer.append(swept)


def _attempt(work: Callable[[], Any]) -> tuple[bool, Any]:
    """(True, result), or (False, message) when memory ran out or the step asked for less.

    A function of its own, so that the failed attempt's tensors are not kept alive by the handler's frame.
    """
    try:
        return True, work()
    except (MemoryError, RuntimeError) as error:
        if not is_too_large(error):
            raise
        # Whoever holds the error would hold the frames, and with them the batch that did not fit.
        return False, str(error.with_traceback(None))


@dataclass
class Sweep(Generic[Kept]):
    """Many passes as a method describes them: items (masks, windows, steps) that are altered, scored and folded.

    Attributes:
        total: number of items.
        work: ``work(start, stop)`` generates and scores the items of one chunk and returns what :attr:`keep` is to
            fold; it must change nothing. When memory runs out inside it, the chunk is halved and done again, so that
            nothing is lost and nothing counts twice.
        keep: ``keep(start, stop, what work returned)`` folds a chunk, and is called once for each item, in order.
        chunk_sizes: items of each chunk, from memory.
        name: of the method, for the bar and for :class:`Swept`.
        show_progress: show a bar on standard error.
        context: around every chunk: the model's mode, and whether there are gradients.
        rows: looks for what the rows of a batch have to do with each other, before the first chunk of several items.
        given: how many items the caller wanted in a chunk, as in ``perturbations_per_eval=8``; empty where not told.
    """

    total: int
    work: Callable[[int, int], Kept]
    keep: Callable[[int, int, Kept], None]
    chunk_sizes: ChunkSizes
    name: str = ""
    show_progress: bool = False
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    rows: Callable[[], Rows] | None = None
    given: str = ""

    def run(self) -> None:
        """All chunks. The caller enters :attr:`context`.

        Raises:
            torch.OutOfMemoryError: when a single item does not fit.
        """
        for _ in chunks(self):
            pass


def _why_alone(sweep: Sweep[Any]) -> str:
    """Why the items must be run one at a time, which is told; empty where they need not."""
    assert sweep.rows is not None
    rows, name = sweep.rows(), sweep.name or "sweep"
    if rows.random:
        tell(
            f"{name}: the model's output changes from run to run (it draws random numbers in evaluation mode too, as "
            "functional dropout does), so the map is one of many; whether the rows of a batch depend on each other "
            "cannot be told: if they do, only one copy per model call is right"
        )
    why = rows.alone or rows.fixed
    if why:
        _tell_alone(sweep, why)
    return why


def _tell_alone(sweep: Sweep[Any], why: str) -> None:
    given = f", not {sweep.given}, with which the map would be wrong" if sweep.given else ""
    tell(f"{sweep.name or 'sweep'}: {why}, so copies are run one at a time{given}")


def chunks(sweep: Sweep[Any]) -> Generator[int, None, None]:
    """Run a sweep in chunks; after each, yield how many items are done. Close the generator to end early.

    The caller enters :attr:`Sweep.context`.

    Raises:
        torch.OutOfMemoryError: when a single item does not fit.
    """
    bar = None
    total, chunk_sizes = sweep.total, sweep.chunk_sizes
    if sweep.show_progress:
        from tqdm.auto import tqdm

        bar = tqdm(total=total, desc=f"{sweep.name} attribution")
    start, retried = 0, 0
    sizes: list[int] = []
    began = time.perf_counter()
    looked, alone = sweep.rows is None, ""
    told = _observers.get().watcher
    try:
        while start < total:
            stop = min(start + chunk_sizes.next, total)
            if stop - start > 1 and not looked:
                looked, alone = True, _why_alone(sweep)
                if alone:
                    chunk_sizes.one_at_a_time()
                    continue
            try:
                done, outcome = _attempt(lambda start=start, stop=stop: sweep.work(start, stop))  # type: ignore[misc]
            except Coupled as error:
                alone = str(error)
                _tell_alone(sweep, alone)
                chunk_sizes.one_at_a_time()
                continue
            if not done:
                if not chunk_sizes.out_of_memory(stop - start):
                    raise torch.OutOfMemoryError(f"one item of the sweep does not fit in memory: {outcome}")
                retried += 1
                continue
            sweep.keep(start, stop, outcome)
            # What is kept is kept; the chunk's own tensors make room for the next one's.
            del outcome
            chunk_sizes.succeeded(stop - start)
            sizes.append(stop - start)
            if bar is not None:
                bar.update(stop - start)
            start = stop
            if told is not None:
                told(sweep.name, start, total)
            yield start
    finally:
        if bar is not None:
            bar.close()
        note(Swept(sweep.name, start, tuple(sizes), retried, time.perf_counter() - began, alone))
