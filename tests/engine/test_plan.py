"""Batch sizes: bounded rows, bounded memory, the caller's choice, and halves."""

from __future__ import annotations

import pytest
import torch

from fastsal.engine import Plan

CPU = torch.device("cpu")


@pytest.mark.parametrize(("rows_per_item", "items"), [(1, 32), (2, 16), (5, 6), (32, 1), (1000, 1)])
def test_rows_on_a_cpu(rows_per_item: int, items: int) -> None:
    assert Plan(1000, rows_per_item, 600_000, CPU).size == items


def test_small_rows_come_in_larger_numbers() -> None:
    assert Plan(1000, 1, 4, CPU).size == 256
    assert Plan(1000, 1, 2**15, CPU).size == 128


def test_memory_bounds_the_rows() -> None:
    assert Plan(1000, 1, 2**50, CPU).size == 1
    assert Plan(3, 1, 4, CPU).size <= 32


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
