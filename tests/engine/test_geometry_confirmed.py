"""Bands of an input confirm how a layer is read, and none of the readings that are nearly so."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.engine.reading.geometry.bands import MOST_BANDS, bands_of
from fastsal.engine.reading.geometry.blocks import axes_of, others_of
from fastsal.engine.reading.geometry.confirming import confirmed
from fastsal.engine.reading.geometry.hypotheses import MOST_EXTRA, UNEVEN, Reading


def layer(x: Tensor, grid: tuple[int, ...], before: int, behind: int, mixed: float) -> Tensor:
    """[B, tokens, C]: parts of the input, with tokens of no place around; the sum of all is a little part of each."""
    if x.dtype == torch.int64:
        table = torch.randn(11, 8, generator=torch.Generator().manual_seed(1)).double()
        parts = table[x].mT
    else:
        pool = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d
        parts = torch.cat([pool(x.mean(1, keepdim=True), grid), pool((x**2).mean(1, keepdim=True), grid)], 1)
    tokens = parts.flatten(2).mT
    mean = tokens.mean(1, keepdim=True)
    weights = torch.rand(before + behind, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    front, back = (mean * weights).split([before, behind], 1)
    return torch.cat([front, tokens + mixed * mean, back], 1)


def readings(count: int, extents: tuple[int, ...], most: tuple[int, int]) -> Iterator[Reading]:
    """Every way to read so many tokens, with at most so many of no place before and behind."""
    for before, behind in itertools.product(*[range(each + 1) for each in most]):
        for grid in itertools.product(*[range(2, extent + 1) for extent in extents]):
            if before + behind <= MOST_EXTRA and torch.Size(grid).numel() == count - before - behind:
                for axes in itertools.permutations(range(len(extents))):
                    yield Reading((0,) * len(grid), axes, tuple(grid[axis] for axis in axes), before, behind, 0.9)


@pytest.mark.parametrize("mixed", [0.0, 1.0])
@pytest.mark.parametrize(
    ("shape", "grid", "before", "behind"),
    [
        ((3, 18, 20), (6, 5), 1, 10),  # as many tokens as 7 x 5 and six, or 6 x 6 and five
        ((3, 30, 35), (6, 7), 0, 7),  # or one row more
        ((3, 36, 36), (9, 9), 1, 0),
        ((3, 36, 36), (12, 6), 0, 3),
        ((3, 10, 24, 20), (5, 4, 4), 1, 4),
        ((33,), (33,), 1, 0),
        ((33,), (33,), 0, 0),
        ((24,), (24,), 2, 5),
    ],
)
def test_one_reading_alone_is_confirmed(
    shape: tuple[int, ...], grid: tuple[int, ...], before: int, behind: int, mixed: float
) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, *shape).double() if len(shape) > 1 else torch.randint(0, 11, (1, *shape))
    axes = axes_of(x)
    bands = bands_of(x, axes)
    values = layer(bands.rows, grid, before, behind, mixed)
    change = (values[1:] - values[:1]).abs()
    extents = tuple(x.shape[axis] for axis in axes)
    most = before + 4, behind + 7
    found = [each for each in readings(values.shape[1], extents, most) if confirmed(each, change, bands) is None]
    assert [(each.axes, each.grid, each.before, each.behind) for each in found] == [
        (tuple(range(len(grid))), grid, before, behind)
    ]


def test_a_reading_without_one_of_the_axes_is_not_confirmed() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 10, 24, 20).double()
    bands = bands_of(x, axes_of(x))
    values = layer(bands.rows, (5, 4, 4), 0, 0, 0.5)
    change = (values[1:] - values[:1]).abs()
    for axes, sides in (((0, 1), (5, 16)), ((0, 2), (20, 4)), ((0, 2), (5, 16)), ((1, 2), (20, 4))):
        assert confirmed(Reading((0, 0), axes, sides, 0, 0, 0.9), change, bands) is not None


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(1, 3, 12, 30),
        torch.tensor([[1, 0, 0, 2, 1, 2, 2, 3, 1]]),
        torch.randn(1, 4, 3, 20, 20),
        torch.randn(1, 20, 20, 3),
    ],
    ids=["image", "text", "frames first", "channels last"],
)
def test_bands_are_equal_parts_of_each_axis(x: Tensor) -> None:
    axes = axes_of(x)
    bands = bands_of(x, axes)
    assert len(bands.rows) == 1 + len(bands.centres) <= 1 + MOST_BANDS
    assert torch.equal(bands.rows[:1], x)
    changed = bands.rows[1:] != x
    for place, axis in enumerate(axes):
        mine = changed[bands.of[place]]
        assert bool((mine.sum(0) == 1).all())  # each element in one of them
        along = mine.movedim(axis, 1).reshape(len(mine), x.shape[axis], -1).all(2).double()
        index = torch.arange(x.shape[axis]).double() + 0.5
        torch.testing.assert_close(
            (along * index).sum(1) / along.sum(1) / x.shape[axis], bands.centres[bands.of[place]]
        )


def test_frames_before_channels_are_an_axis_however_few() -> None:
    assert axes_of(torch.zeros(1, 4, 3, 20, 30)) == (1, 3, 4)
    assert axes_of(torch.zeros(1, 3, 4, 20, 30)) == (2, 3, 4)
    assert axes_of(torch.zeros(1, 16, 3, 20, 30)) == (1, 3, 4)


def test_an_integer_becomes_another() -> None:
    x = torch.tensor([[7, 7, 7, 2, 7, 7, 7, 7, 5, 7]])
    other = others_of(x, torch.Generator().manual_seed(0))
    assert set(other.flatten().tolist()) <= {2, 5, 7}
    assert bool((other != x).any())
    x = torch.randint(0, 5, (1, 40), generator=torch.Generator().manual_seed(0))
    assert bool((others_of(x, torch.Generator().manual_seed(0)) != x).all())


@pytest.mark.parametrize(("cut", "expected"), [(0, None), (1, None), (4, UNEVEN)])
def test_an_input_of_which_an_end_is_not_seen(cut: int, expected: str | None) -> None:
    """By a third of a step that is no matter; by more than one the parts of the input are not the positions."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 24, 24 + cut).double()
    bands = bands_of(x, axes_of(x))
    values = layer(bands.rows[..., :24], (8, 8), 1, 0, 0.2)
    change = (values[1:] - values[:1]).abs()
    assert confirmed(Reading((0, 0), (0, 1), (8, 8), 1, 0, 0.9), change, bands) == expected
