"""windows: occlusion's batch and its fold."""

from __future__ import annotations

from functools import partial
from itertools import product
from math import prod

import pytest
import torch
from torch import Tensor

from fastsal.ops import backend, windows
from tests.ops import harness
from tests.ops.harness import KERNEL_BACKEND, KERNEL_DEVICE, Case


def batch(x: Tensor, baseline: Tensor | None = None, *, window: object, stride: object, fill: float = 0.0) -> Tensor:
    total = prod(windows.counts(x.shape[1:], window, stride))
    chosen = fill if baseline is None else baseline
    return windows.batch(x, min(1, total - 1), min(9, total), window=window, stride=stride, baseline=chosen)


def fold(
    differences: Tensor, *, shape: tuple[int, ...], window: object, stride: object, average: bool = True
) -> Tensor:
    return windows.fold(differences, shape, window=window, stride=stride, average=average)


def tensors(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)


def not_finite() -> tuple[Tensor, ...]:
    (x,) = tensors((2, 2, 9, 12))
    x[0, 1, 1, 3], x[1, 1, 4, 5], x[1, 0, 0, 0] = float("nan"), float("inf"), float("-inf")
    return (x,)


BATCHES = [
    Case("image", partial(batch, window=(3, 5, 5), stride=(3, 3, 3)), lambda: tensors((2, 3, 20, 24))),
    Case("per channel", partial(batch, window=(1, 4, 7), stride=(1, 4, 3), fill=0.5), lambda: tensors((1, 3, 19, 23))),
    Case(
        "tensor baseline",
        partial(batch, window=(2, 6, 6), stride=(1, 5, 4)),
        lambda: tensors((1, 3, 16, 18), (1, 3, 16, 18)),
    ),
    Case("whole input", partial(batch, window=(2, 9, 9), stride=(2, 2, 2)), lambda: tensors((1, 2, 9, 9))),
    Case("over the edge", partial(batch, window=(1, 5, 5), stride=(1, 4, 4)), lambda: tensors((2, 1, 11, 10))),
    Case("gaps between windows", partial(batch, window=2, stride=5), lambda: tensors((1, 2, 12, 13))),
    Case("table", partial(batch, window=(1,), stride=(1,), fill=-2.0), lambda: tensors((3, 11))),
    Case("series", partial(batch, window=(2, 10), stride=(1, 7)), lambda: tensors((2, 3, 301))),
    Case("volume", partial(batch, window=(2, 2, 3, 4), stride=(2, 2, 2, 3)), lambda: tensors((2, 2, 5, 6, 9))),
    Case("five dimensions", partial(batch, window=2, stride=1), lambda: tensors((1, 2, 2, 3, 2, 3))),
    Case("one pixel", partial(batch, window=1, stride=1), lambda: tensors((1, 1, 1, 1))),
    Case("wide tail", partial(batch, window=(1, 3, 100), stride=(1, 3, 100)), lambda: tensors((1, 2, 33, 260))),
    Case(
        "strided input", partial(batch, window=3, stride=2), lambda: (tensors((2, 3, 20, 30))[0][:, :, 3:14, 5:23:2],)
    ),
    Case("nan and inf", partial(batch, window=(2, 3, 3), stride=(2, 2, 2)), not_finite),
]
FOLDS = [
    Case("image fold", partial(fold, shape=(3, 20, 24), window=(3, 5, 5), stride=(3, 3, 3)), lambda: tensors((48, 2))),
    Case("overlapping", partial(fold, shape=(1, 9, 40), window=(1, 4, 5), stride=1), lambda: tensors((6 * 36, 1))),
    Case(
        "sum",
        partial(fold, shape=(2, 9, 9), window=(1, 4, 4), stride=(1, 2, 3), average=False),
        lambda: tensors((2 * 4 * 3, 3)),
    ),
    Case("gaps", partial(fold, shape=(2, 12, 13), window=2, stride=5), lambda: tensors((1 * 3 * 4, 1))),
    Case("table fold", partial(fold, shape=(11,), window=3, stride=2), lambda: tensors((5, 4))),
    Case("series fold", partial(fold, shape=(3, 50), window=(2, 7), stride=(1, 3)), lambda: tensors((2 * 16, 1))),
    Case(
        "volume fold",
        partial(fold, shape=(2, 5, 6, 9), window=(2, 2, 3, 4), stride=(2, 2, 2, 3)),
        lambda: tensors((1 * 3 * 3 * 3, 2)),
    ),
    Case("no outputs", partial(fold, shape=(4, 4), window=2, stride=2), lambda: tensors((4, 0))),
]
SMALL = [
    Case("batch", partial(batch, window=2, stride=1), lambda: tensors((2, 2, 3, 3), (2, 2, 3, 3))),
    Case("table batch", partial(batch, window=1, stride=1), lambda: tensors((2, 5))),
    Case("fold", partial(fold, shape=(2, 4, 3), window=2, stride=1), lambda: tensors((6, 2))),
    Case("table fold", partial(fold, shape=(5,), window=3, stride=2, average=False), lambda: tensors((2, 2))),
]


globals().update(
    harness.suite(
        [*BATCHES, *FOLDS], SMALL, gradients=[BATCHES[0], BATCHES[2], FOLDS[0], FOLDS[6]], compiled=[SMALL[0], SMALL[2]]
    )
)


def boxes(shape: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]) -> list[tuple[slice, ...]]:
    starts = product(
        *[[i * step for i in range(n)] for n, step in zip(windows.counts(shape, window, stride), stride, strict=True)]
    )
    return [tuple(slice(a, a + width) for a, width in zip(start, window, strict=True)) for start in starts]


GEOMETRIES = [
    ((3, 10, 11), (3, 4, 5), (3, 2, 3)),
    ((2, 7), (1, 3), (1, 2)),
    ((6,), (4,), (3,)),
    ((2, 4, 5, 6), (2, 3, 3, 2), (1, 2, 3, 2)),
    ((1, 9, 9), (1, 2, 2), (1, 5, 4)),
]


@pytest.mark.parametrize(("shape", "window", "stride"), GEOMETRIES)
@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
def test_kernel_batch_is_slicing(
    selected: str, shape: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    device = KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu"
    x, baseline = torch.randn(2, *shape, device=device), torch.randn(2, *shape, device=device)
    expected = []
    for box in boxes(shape, window, stride):
        rows = x.clone()
        rows[(slice(None), *box)] = baseline[(slice(None), *box)]
        expected.append(rows)
    with backend(selected):
        got = windows.batch(x, 0, len(expected), window=window, stride=stride, baseline=baseline)
    assert torch.equal(got, torch.cat(expected))


@pytest.mark.parametrize(("shape", "window", "stride"), GEOMETRIES)
@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
def test_kernel_fold_is_the_mean_over_covering_windows(
    selected: str, shape: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    device = KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu"
    differences = torch.randn(prod(windows.counts(shape, window, stride)), 2, device=device)
    total, count = torch.zeros(2, *shape, device=device), torch.zeros(shape, device=device)
    for difference, box in zip(differences, boxes(shape, window, stride), strict=True):
        total[(slice(None), *box)] += difference.view(2, *[1] * len(shape))
        count[box] += 1
    with backend(selected):
        got = windows.fold(differences, shape, window=window, stride=stride)
    torch.testing.assert_close(got, total / count.clamp_min(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "window", "stride"), GEOMETRIES)
def test_windows_know_where_they_are(shape: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]) -> None:
    made = windows.Windows(shape, window, stride)
    assert (made.shape, made.window, made.stride) == (shape, window, stride)
    assert made.counts == windows.counts(shape, window, stride)
    assert made.total == prod(made.counts)
    first, end = made.rectangles()
    found = [box_of(*each) for each in zip(first.tolist(), end.tolist(), strict=True)]
    assert found == [box_cut(box, shape) for box in boxes(shape, window, stride)]


def box_of(first: list[int], end: list[int]) -> list[tuple[int, int]]:
    return list(zip(first, end, strict=True))


def box_cut(box: tuple[slice, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(each.start, min(each.stop, size)) for each, size in zip(box, shape, strict=True)]


def test_windows_are_values() -> None:
    made = windows.Windows([3, 8, 8], 2)
    assert made == windows.Windows((3, 8, 8), (2, 2, 2), 1)
    assert hash(made) == hash(windows.Windows((3, 8, 8), (2, 2, 2), 1))
    assert made != windows.Windows((3, 8, 8), 2, 2)
    assert repr(made) == "Windows(shape=(3, 8, 8), window=(2, 2, 2), stride=(1, 1, 1))"
    with pytest.raises(AttributeError):
        made.total = 3


@pytest.mark.parametrize("positions", [[], [0], [2, 3, 4], [0, 1, 5, 7, 8], [8, 0]])
def test_windows_at_positions_are_rows_of_all(positions: list[int]) -> None:
    made = windows.Windows((2, 7, 7), (2, 3, 3), 2)
    x = torch.randn(2, 2, 7, 7)
    rows = made.batch(x, 0, made.total, 0.5).unflatten(0, (made.total, 2))[positions].flatten(0, 1)
    assert torch.equal(made.at(x, positions, 0.5), rows)
    assert torch.equal(made.at(x, torch.tensor(positions, dtype=torch.int64), 0.5), rows)


@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
def test_kernel_nan_difference_stays_under_its_window(selected: str) -> None:
    differences = torch.ones(9, 1, device=KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu")
    differences[4] = float("nan")
    with backend(selected):
        got = windows.fold(differences, (6, 6), window=2, stride=2)
    assert got.isnan().sum() == 4
    assert got[0, 2:4, 2:4].isnan().all()


@pytest.mark.parametrize("selected", ["reference", KERNEL_BACKEND])
def test_kernel_chunks_give_the_bits_of_one_call(selected: str) -> None:
    x = torch.randn(2, 3, 12, 12, device=KERNEL_DEVICE if selected == KERNEL_BACKEND else "cpu")
    options = {"window": (3, 4, 4), "stride": (3, 2, 2)}
    with backend(selected):
        whole = windows.batch(x, 0, 25, **options)
        parts = [windows.batch(x, start, min(start + 7, 25), **options) for start in range(0, 25, 7)]
    assert torch.equal(torch.cat(parts), whole)


def test_integer_input_keeps_its_dtype() -> None:
    tokens = torch.arange(1, 11).view(2, 5)
    got = windows.batch(tokens, 0, 5, window=1, stride=1, baseline=0)
    assert got.dtype == torch.int64
    assert torch.equal(got[2:4], torch.tensor([[1, 0, 3, 4, 5], [6, 0, 8, 9, 10]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: windows.batch(x, 0, 1, window=(1, 5, 1), stride=1),
            r"window: \(1, 5, 1\) is larger than the input's \(1, 4, 4\)",
        ),
        (lambda x: windows.batch(x, 0, 1, window=(2, 2), stride=1), r"window: \(2, 2\) has 2 entries, 3 are needed"),
        (lambda x: windows.batch(x, 0, 1, window=1, stride=0), "stride: 0 has an entry below 1"),
        (lambda x: windows.batch(x, 0, 1, window=1.5, stride=1), "window: 1.5 is neither"),
        (lambda x: windows.batch(x, 0, 17, window=1, stride=1), "start, stop: 0, 17 .* <= 16"),
        (lambda x: windows.batch(x, 0, 1, window=1, stride=1, baseline=torch.zeros(3)), r"baseline: shape \(3,\)"),
        (lambda x: windows.batch(x[0, 0, 0], 0, 1, window=1, stride=1), "shape: it is empty"),
        (lambda x: windows.Windows((4.0, 4), 1), r"shape: \(4.0, 4\) is not a sequence of ints"),
        (lambda x: windows.Windows((1, 5, 4), 1).batch(x, 0, 1), r"input: shape \(1, 1, 4, 4\) is not \[B, 1, 5, 4\]"),
        (lambda x: windows.Windows((1, 4, 4), 1).at(x, [3, 16]), "start, stop: 16, 17"),
        (
            lambda x: windows.fold(x[0, 0], (4, 4), window=2, stride=2, average=True),
            r"differences: .* is not .* \[4, K\]|differences",
        ),
    ],
)
def test_errors_name_the_argument(call: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(torch.zeros(1, 1, 4, 4) if "differences" not in message else torch.zeros(1, 1, 5, 4))
