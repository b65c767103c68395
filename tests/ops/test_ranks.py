"""ranks: batches in which the elements of the lowest ranks are another input's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastsal.ops import ranks
from tests.ops import harness
from tests.ops.harness import Case


def order(x: Tensor) -> Tensor:
    """A fixed place for each position of each example."""
    count = x[0, 0].numel()
    rows = torch.arange(x.shape[0], device=x.device)[:, None] * 7 + torch.arange(count, device=x.device) * 31
    return (rows % count).reshape(x.shape[0], *x.shape[2:])


def counts(x: Tensor, steps: int) -> Tensor:
    return torch.arange(steps, device=x.device) * x[0, 0].numel() // (steps - 1)


def three(x: Tensor, other: Tensor) -> Tensor:
    return ranks.batch(x, other, order(x), counts(x, 3))


def many(x: Tensor, other: Tensor) -> Tensor:
    return ranks.batch(x, other, order(x), counts(x, 37))


def tensors(*shape: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))


def not_finite() -> tuple[Tensor, ...]:
    x, other = tensors(2, 3, 4, 5)
    x[0, 1, 1, 1], other[1, 2, 3, 3] = float("nan"), float("inf")
    return x, other


CASES = [
    Case("image", three, lambda: tensors(2, 3, 12, 16)),
    Case("odd sizes", three, lambda: tensors(3, 3, 7, 5)),
    Case("many steps", many, lambda: tensors(1, 1, 9, 9)),
    Case("series", three, lambda: tensors(2, 4, 33)),
    Case("volume", three, lambda: tensors(2, 2, 3, 4, 5)),
    Case("one element", three, lambda: tensors(1, 1, 1)),
    Case("tail", three, lambda: tensors(1, 1, 41, 25)),
    Case("nan and inf", three, not_finite),
]
SMALL = [Case("small", three, lambda: tensors(2, 2, 3, 2))]


def test_the_lowest_ranks_are_exchanged() -> None:
    x, other = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    ranking = torch.tensor([[[2, 0], [3, 1]]])
    got = ranks.batch(x, other, ranking, torch.tensor([0, 1, 3, 4]))
    assert got[:, 0].flatten(1).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]]
    assert torch.equal(got[:, 0], got[:, 1])


def test_integers_too() -> None:
    x = torch.arange(6).reshape(1, 1, 6)
    got = ranks.batch(x, x + 10, torch.arange(6)[None], torch.tensor([2]))
    assert got.tolist() == [[[10, 11, 2, 3, 4, 5]]]


globals().update(harness.suite(CASES, SMALL, gradients=CASES[:2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(4)}, r"input: shape \(4,\) is not \[B, C, ...\]"),
        ({"other": torch.zeros(2, 3, 5, 4)}, "other: torch.float32 of shape"),
        ({"other": torch.zeros(2, 3, 4, 5).double()}, "other: torch.float64 of shape"),
        ({"ranks": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, r"ranks: .* is not int64 of shape \(2, 4, 5\)"),
        ({"ranks": torch.zeros(2, 4, 5)}, "ranks: torch.float32"),
        ({"counts": torch.zeros(2)}, "counts: torch.float32"),
        ({"counts": torch.zeros(0, dtype=torch.int64)}, r"counts: torch.int64 of shape \(0,\)"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Tensor], message: str) -> None:
    given = {
        "input": torch.zeros(2, 3, 4, 5),
        "other": torch.zeros(2, 3, 4, 5),
        "ranks": torch.zeros(2, 4, 5, dtype=torch.int64),
        "counts": torch.zeros(1, dtype=torch.int64),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        ranks.batch(*given.values())
