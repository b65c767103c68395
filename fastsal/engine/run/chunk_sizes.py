"""How many rows the model gets at once: from free memory and from what the batches so far took, at no extra pass."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from fastsal.engine.run.managed import Managed
from fastsal.engine.run.modules import ForwardFunc, behind, modules_of
from fastsal.engine.run.own import Undone

CPU_ROWS = 8
CPU_BYTES = 2**22
"""A CPU gains nothing from more rows than the first (or than it has threads), unless they are so small that they stay
below the second: above, activations leave the cache, and each batch pays for fresh pages."""
MOST_ROWS = 256
"""Above this the model's kernels are full on today's GPUs."""
MULTIPLE = 8
"""Noise is drawn for so many samples at once."""
BUDGET = 0.5
"""Share of the free memory that a sweep may take."""
ROW_FACTOR = 64
"""First guess of what a row costs, in sizes of its input; activations of usual networks stay below it."""


_fixed_size: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastsal chunk size", default=None)


@contextlib.contextmanager
def chunks_of(items: int) -> Iterator[None]:
    """Sweeps inside run chunks of so many items, whatever memory there is: what traces them sees no memory."""
    with Undone() as undone:
        undone.set(_fixed_size, items)
        yield


class ChunkSizes:
    """Chunk sizes for a sweep of ``total`` items, each of ``rows_per_item`` rows of ``row_bytes`` bytes.

    A batch size given by the caller is in items and is honoured until memory runs out. Otherwise ``forward_func`` is
    asked for the rows per call that were measured to be the fastest, where it is prepared; where it is not known what
    it runs, after the first chunk.

    Attributes:
        size: of the next chunk, as far as memory goes.
        most: of the next chunk, as far as the time of whoever runs the sweep goes; None where that does not matter.
    """

    def __init__(
        self,
        total: int,
        rows_per_item: int,
        row_bytes: int,
        device: torch.device,
        batch_size: int | None = None,
        forward_func: ForwardFunc | None = None,
    ) -> None:
        self.device, self._total = device, total
        self._unknown: ForwardFunc | None = None
        batch_size = _fixed_size.get() or batch_size
        self.most: int | None = None
        self._rows_per_item = max(rows_per_item, 1)
        self._fixed = batch_size is not None
        self._held = _held(device) if device.type == "cuda" else Held(0, 0)
        if batch_size is not None:
            self.size = batch_size
            return
        self._row_bytes = max(row_bytes, 1)
        measured = None if forward_func is None else preferred_rows(forward_func)
        if forward_func is not None and behind(forward_func) is None:
            self._unknown = forward_func
        if measured is not None:
            most = measured
        elif device.type == "cuda":
            most = MOST_ROWS
        else:
            most = min(MOST_ROWS, max(CPU_ROWS, torch.get_num_threads(), CPU_BYTES // self._row_bytes))
        self._choose(most)

    def _choose(self, most: int) -> None:
        """So many rows at most, as far as memory goes."""
        free = free_bytes(self.device, self._held)
        rows = min(most, int(BUDGET * free / (ROW_FACTOR * self._row_bytes)))
        self._most = max(1, most // self._rows_per_item)
        size = min(rows // self._rows_per_item, self._most)
        if size > MULTIPLE:
            size -= size % MULTIPLE
        self.size = max(1, min(size, self._total))

    def spread(self) -> None:
        """As many chunks, but of about the same size: where the last would be small, the largest need not be."""
        if not self._fixed and self._total > self.size:
            even = -(-self._total // -(-self._total // self.size))
            self.size = min(self.size, even if even <= MULTIPLE else -(-even // MULTIPLE) * MULTIPLE)

    @property
    def next(self) -> int:
        """Items of the next chunk."""
        return self.size if self.most is None else max(1, min(self.size, self.most))

    def succeeded(self, count: int) -> None:
        """A chunk of ``count`` items ran: on a GPU, grow into what it left free."""
        if self._unknown is not None:
            measured, self._unknown = preferred_rows(self._unknown), None
            if measured is not None and not self._fixed:
                self._choose(measured)
                return
        if self._fixed or self.device.type != "cuda" or count < self.size or self.size >= self._most:
            return
        held = _held(self.device)
        taken = max(held.reserved - self._held.reserved, 1)
        room = BUDGET * (free_bytes(self.device, held) + taken)
        if 2 * taken < room:
            self.size = min(2 * self.size, self._most)

    def one_at_a_time(self) -> None:
        """Items are not to be run together."""
        self.size, self._fixed, self._unknown = 1, True, None

    def out_of_memory(self, count: int) -> bool:
        """A chunk of ``count`` items did not fit: halve. False when one item alone did not."""
        if count <= 1:
            return False
        self.size = count // 2
        self._fixed = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return True


def preferred_rows(forward_func: ForwardFunc) -> int | None:
    """Rows per call with the most throughput, of a model that is known to be prepared."""
    return next((module.rows for module in modules_of(forward_func) if isinstance(module, Managed)), None)


class Held(NamedTuple):
    """Bytes of a CUDA device that PyTorch has: with its unused cache, and without."""

    reserved: int
    allocated: int


def _held(device: torch.device) -> Held:
    # One read: PyTorch's functions of one figure make all of them each time, some 80 us of the host.
    stats = torch.cuda.memory_stats_as_nested_dict(device)
    reserved, allocated = (
        stats.get(name, {}).get("all", {}).get("current", 0) for name in ("reserved_bytes", "allocated_bytes")
    )
    return Held(reserved, allocated)


def free_bytes(device: torch.device, held: Held | None = None) -> int:
    """Free memory of a device, PyTorch's own unused cache included; ``held`` where it was just read."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = _held(device) if held is None else held
        return free + held.reserved - held.allocated
    try:
        # What a process can still have: the free pages that sysconf counts leave out what the system merely caches.
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**32
