"""The sweep: chunks, running out of memory, progress."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fastsal.engine import Plan, sweep


def run(
    limit: int, total: int, size: int, fails: BaseException | None = None
) -> tuple[list[int], list[tuple[int, int]]]:
    """Items folded, and chunks tried, when more than ``limit`` items at once run out of memory."""
    folded: list[int] = []
    tried: list[tuple[int, int]] = []

    def step(start: int, stop: int) -> Callable[[], None]:
        tried.append((start, stop))
        if stop - start > limit:
            raise fails or torch.OutOfMemoryError("no memory")
        return lambda: folded.extend(range(start, stop))

    sweep(total, step, Plan(total, 1, 4, torch.device("cpu"), size))
    return folded, tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("x"),
        MemoryError("x"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_halves_redoes_and_loses_nothing(error: BaseException) -> None:
    folded, tried = run(limit=3, total=23, size=16, fails=error)
    assert folded == list(range(23))
    assert tried[:4] == [(0, 16), (0, 8), (0, 4), (0, 2)]


def test_one_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="one item of the sweep"):
        run(limit=0, total=4, size=4)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="the model's own"):
        run(limit=0, total=4, size=4, fails=RuntimeError("the model's own"))


def test_plan_honours_a_given_size_and_bounds_its_own() -> None:
    assert Plan(100, 1, 4, torch.device("cpu"), 77).size == 77
    assert Plan(1000, 1, 4, torch.device("cpu")).size == 32
    assert Plan(1000, 10, 4, torch.device("cpu")).size == 3
    assert Plan(5, 1, 4, torch.device("cpu")).size == 5
    assert Plan(1000, 1, 2**60, torch.device("cpu")).size == 1


def test_progress_is_shown_on_request(capfd: pytest.CaptureFixture[str]) -> None:
    sweep(
        4,
        lambda start, stop: lambda: None,
        Plan(4, 1, 4, torch.device("cpu"), 2),
        show_progress=True,
        description="RISE",
    )
    assert "RISE" in capfd.readouterr().err
