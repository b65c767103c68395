"""Sweep: generate a batch of altered inputs, score it with the model, fold the scores into the map; repeat."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from fastsal.engine.plan import Plan

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)
"""What allocators say that raise no class of their own: the CPU's (by system), MPS, cuBLAS and cuDNN."""


class ChunkTooLarge(RuntimeError):
    """Raised inside a step that can only run with fewer items: the chunk is halved and done again."""


def _is_too_large(error: BaseException) -> bool:
    return isinstance(error, (ChunkTooLarge, torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


def _attempt(work: Callable[[], Any]) -> tuple[bool, Any]:
    """(True, result), or (False, message) when memory ran out or the step asked for less.

    A function of its own, so that the failed attempt's tensors are not kept alive by the handler's frame.
    """
    try:
        return True, work()
    except (MemoryError, RuntimeError) as error:
        if not _is_too_large(error):
            raise
        # Whoever holds the error would hold the frames, and with them the batch that did not fit.
        return False, str(error.with_traceback(None))


def sweep(
    total: int,
    step: Callable[[int, int], Callable[[], None]],
    plan: Plan,
    *,
    show_progress: bool = False,
    description: str = "",
) -> None:
    """Run items 0 .. total in chunks.

    Args:
        total: number of items (masks, windows, steps).
        step: ``step(start, stop)`` generates, scores and folds one chunk and returns what commits the result; it must
            change nothing before that. When memory runs out inside it, the chunk is halved and done again, so that
            nothing is lost and nothing counts twice.
        plan: chunk sizes.
        show_progress: show a bar on standard error.
        description: of the bar.

    Raises:
        torch.OutOfMemoryError: when a single item does not fit.
    """
    bar = None
    if show_progress:
        from tqdm.auto import tqdm

        bar = tqdm(total=total, desc=description, leave=False)
    start = 0
    try:
        while start < total:
            stop = min(start + plan.size, total)
            done, outcome = _attempt(lambda start=start, stop=stop: step(start, stop))  # type: ignore[misc]
            if not done:
                if not plan.out_of_memory(stop - start):
                    raise torch.OutOfMemoryError(f"one item of the sweep does not fit in memory: {outcome}")
                continue
            outcome()
            plan.succeeded(stop - start)
            if bar is not None:
                bar.update(stop - start)
            start = stop
    finally:
        if bar is not None:
            bar.close()
