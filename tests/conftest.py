"""What every test gets: kernels that run here, one thread, one seed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fastsal.ops._backend import without_triton

if not torch.cuda.is_available():
    # Triton reads this at its import: without a GPU, its interpreter runs the kernels on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)

SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text().splitlines())

pytest.register_assert_rewrite("tests.ops.harness")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what runs a kernel where no Triton compiles them; the name of such a test has ``kernel`` or the backend.

    Marks as slow what tests/slow.txt lists: functions that took long, with all their parameters together.
    """
    for item in items:
        if item.nodeid.split("[")[0] in SLOW:
            item.add_marker(pytest.mark.slow)
    if reason := without_triton():
        for item in items:
            if item.path.parent.name == "ops" and ("kernel" in item.name or "interpret" in item.name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seed() -> int:
    """The same random numbers in every test, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's folder."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def cuda() -> torch.device:
    """The CUDA device, or a skip that says there is none."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")
