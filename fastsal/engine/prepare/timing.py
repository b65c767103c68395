"""How long passes take of a number of rows, made of the arguments that a model is prepared for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal.engine.run.chunk_sizes import free_bytes
from fastsal.engine.run.forward import run, scratch

GAIN = 0.97
"""Another batch size or memory format is taken where it needs less than this share of the time."""


class Timing:
    """Passes of a call's arguments with any number of rows.

    Args:
        arguments: of which the first is a tensor [B, ...], and each with B entries has one for each row.
        device: of the model.
    """

    def __init__(self, arguments: tuple[Any, ...], device: torch.device) -> None:
        self._arguments, self._device = arguments, device

    def repeated(self, rows: int) -> tuple[Any, ...]:
        """The arguments with as many rows."""
        count = self._arguments[0].shape[0]

        def repeat(value: Any) -> Any:
            if not self.by_row(value):
                return scratch(value)
            return value.repeat(-(-rows // count), *[1] * (value.dim() - 1))[:rows].clone()

        return tuple(repeat(value) for value in self._arguments)

    def by_row(self, value: Any) -> bool:
        """Whether an argument has an entry for each row."""
        return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == self._arguments[0].shape[0]

    def seconds(self, work: Callable[..., Any], rows: int) -> float:
        """Of a row, in a pass of so many."""
        batch = self.repeated(rows)
        self._wait()
        began = time.perf_counter()
        run(work, batch)
        self._wait()
        return (time.perf_counter() - began) / rows

    def comparable(self, work: Callable[..., Any], most: int, probe_seconds: float) -> int:
        """Rows at which two choices can be measured in the time, at least two."""
        row = min(self.seconds(work, 1) for _ in range(2))
        return max(2, min(most, int(probe_seconds / (6 * row))))

    def compared(self, works: Sequence[Callable[..., Any]], rows: int) -> list[float]:
        """Seconds a row of each, measured in turn."""
        for work in works:
            self.seconds(work, rows)  # the first call of a shape chooses algorithms
        best = [float("inf")] * len(works)
        for _ in range(2):
            for index, work in enumerate(works):
                best[index] = min(best[index], self.seconds(work, rows))
        return best

    def fastest_rows(
        self, work: Callable[..., Any], start: int, most: int, probe_seconds: float
    ) -> tuple[int, dict[int, float]]:
        """(rows, seconds a row at each number that was measured): twice as many, or half, while that is faster."""
        ends = time.perf_counter() + probe_seconds
        found: dict[int, float] = {}

        def measure(rows: int) -> bool:
            """Whether a number of rows was measured and is the fastest yet."""
            if rows < 1 or rows > most or not self._fits(rows):
                return False
            if found and 2 * rows * min(found.values()) > 2 * (ends - time.perf_counter()):
                return False
            try:
                self.seconds(work, rows)
                seconds = self.seconds(work, rows)
            except (torch.OutOfMemoryError, MemoryError):
                return False
            faster = not found or seconds < GAIN * min(found.values())
            found[rows] = seconds
            return faster

        measure(start)
        rows = start
        while time.perf_counter() < ends and measure(2 * rows):
            rows *= 2
        if rows == start:
            while time.perf_counter() < ends and measure(rows // 2):
                rows //= 2
        return rows, found

    def _fits(self, rows: int) -> bool:
        """Whether so many rows could fit, generously counted: the measurement is not to bring the machine down."""
        row = self._arguments[0][:1]
        return bool(128 * rows * row.numel() * row.element_size() < free_bytes(self._device))

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
