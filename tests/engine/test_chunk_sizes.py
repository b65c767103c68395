"""Batch sizes: bounded rows, bounded memory, the caller's choice, and halves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastsal.engine.run import ChunkSizes

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows_per_item", [1, 2, 3, 8, 1000])
def test_rows_on_a_cpu(rows_per_item: int) -> None:
    """Eight rows of a large image, or one a thread, in multiples of eight where there are more."""
    items = max(1, max(8, torch.get_num_threads()) // rows_per_item)
    assert ChunkSizes(1000, rows_per_item, 600_000, CPU).size == (items if items <= 8 else items - items % 8)


def test_small_rows_come_in_larger_numbers() -> None:
    assert ChunkSizes(1000, 1, 4, CPU).size == 256
    assert ChunkSizes(1000, 1, 2**15, CPU).size == 128


def test_memory_bounds_the_rows() -> None:
    assert ChunkSizes(1000, 1, 2**50, CPU).size == 1
    assert ChunkSizes(3, 1, 4, CPU).size == 3


def test_the_callers_choice_is_kept_until_memory_runs_out() -> None:
    chunk_sizes = ChunkSizes(1000, 1, 2**50, CPU, 100)
    assert chunk_sizes.size == 100
    chunk_sizes.succeeded(100)
    assert chunk_sizes.size == 100
    assert chunk_sizes.out_of_memory(100)
    assert chunk_sizes.size == 50
    chunk_sizes.succeeded(50)
    assert chunk_sizes.size == 50
    assert not ChunkSizes(10, 1, 4, CPU, 1).out_of_memory(1)


def test_a_gpus_batch_grows_and_stays_within_its_memory(cuda: torch.device) -> None:
    chunk_sizes = ChunkSizes(10_000, 1, 1024, cuda)
    for _ in range(12):
        chunk_sizes.succeeded(chunk_sizes.size)
    assert chunk_sizes.size == 256
    assert ChunkSizes(10_000, 1, torch.cuda.get_device_properties(cuda).total_memory, cuda).size == 1


def test_a_gpus_memory_is_read_once_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in: each of PyTorch's readings costs the host some 80 us."""
    held, reads = {"reserved": 6 * 2**30, "allocated": 2**30}, []

    def stats(device: torch.device) -> dict[str, Any]:
        reads.append(device)
        return {f"{name}_bytes": {"all": {"current": value}} for name, value in held.items()}

    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", stats)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * 2**30, 80 * 2**30))
    device, row = torch.device("cuda", 0), 2**21
    chunk_sizes = ChunkSizes(10_000, 1, row, device)
    assert len(reads) == 1
    free = 3 * 2**30 + held["reserved"] - held["allocated"]
    assert chunk_sizes.size == free // 2 // (64 * row) // 8 * 8 == 32
    chunk_sizes.succeeded(32)  # took nothing beyond the cache: there is room for twice as many
    assert (len(reads), chunk_sizes.size) == (2, 64)
    ChunkSizes(10_000, 1, row, device, batch_size=4).succeeded(4)
    assert len(reads) == 3


@pytest.mark.parametrize(
    ("total", "row_bytes", "size", "spread"),
    [(51, 2**22 // 40, 40, 32), (50, 2**22 // 40, 40, 32), (80, 2**22 // 40, 40, 40), (24, 2**22 // 40, 24, 24),
     (17, 2**21, 8, 6), (9, 2**21, 8, 5)],
)  # fmt: skip
def test_chunks_of_about_the_same_size(total: int, row_bytes: int, size: int, spread: int) -> None:
    chunk_sizes = ChunkSizes(total, 1, row_bytes, CPU)
    assert chunk_sizes.size == size
    chunk_sizes.spread()
    assert chunk_sizes.size == spread
    assert -(-total // spread) == -(-total // size)
    given = ChunkSizes(total, 1, row_bytes, CPU, batch_size=7)
    given.spread()
    assert given.size == 7
