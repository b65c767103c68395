"""Batch sizes: bounded rows, bounded memory, the caller's choice, and halves."""

from __future__ import annotations

import pytest
import torch

from fastsal.engine.run import Plan

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows_per_item", [1, 2, 3, 8, 1000])
def test_rows_on_a_cpu(rows_per_item: int) -> None:
    """Eight rows of a large image, or one a thread, in multiples of eight where there are more."""
    items = max(1, max(8, torch.get_num_threads()) // rows_per_item)
    assert Plan(1000, rows_per_item, 600_000, CPU).size == (items if items <= 8 else items - items % 8)


def test_small_rows_come_in_larger_numbers() -> None:
    assert Plan(1000, 1, 4, CPU).size == 256
    assert Plan(1000, 1, 2**15, CPU).size == 128


def test_memory_bounds_the_rows() -> None:
    assert Plan(1000, 1, 2**50, CPU).size == 1
    assert Plan(3, 1, 4, CPU).size == 3


def test_the_callers_choice_is_kept_until_memory_runs_out() -> None:
    plan = Plan(1000, 1, 2**50, CPU, 100)
    assert plan.size == 100
    plan.succeeded(100)
    assert plan.size == 100
    assert plan.out_of_memory(100)
    assert plan.size == 50
    plan.succeeded(50)
    assert plan.size == 50
    assert not Plan(10, 1, 4, CPU, 1).out_of_memory(1)


def test_a_gpus_batch_grows_and_stays_within_its_memory(cuda: torch.device) -> None:
    plan = Plan(10_000, 1, 1024, cuda)
    for _ in range(12):
        plan.succeeded(plan.size)
    assert plan.size == 256
    assert Plan(10_000, 1, torch.cuda.get_device_properties(cuda).total_memory, cuda).size == 1
