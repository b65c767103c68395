"""The grid pointing game, against its definition cell by cell."""

from __future__ import annotations

import pytest
import torch

from fastsal import metrics


def test_images_fill_a_grid_row_by_row() -> None:
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 2, 3, 4)
    grids = metrics.grid_of_images(images, 2)
    assert grids.shape == (2, 2, 6, 8)
    assert grids[1, 0, ::3, ::4].tolist() == [[4, 5], [6, 7]]


def test_share_of_the_positive_values() -> None:
    maps = torch.randn(5, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([0, 2, 4, 8, 5])
    got = metrics.grid_pointing(maps, cells, 3)
    for row, cell in enumerate(cells.tolist()):
        positive = maps[row].sum(0).double().clamp(min=0)
        y, x = cell // 3, cell % 3
        expected = positive[2 * y : 2 * y + 2, 3 * x : 3 * x + 3].sum() / positive.sum()
        assert abs(float(got[row] - expected)) < 1e-6


def test_a_map_without_positive_values_is_a_miss() -> None:
    assert metrics.grid_pointing(-torch.ones(1, 4, 4), torch.tensor([0]), 2).tolist() == [0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.grid_pointing(torch.zeros(1, 4, 5), torch.tensor([0]), 2), "maps: shape"),
        (lambda: metrics.grid_pointing(torch.zeros(1, 4, 4), torch.tensor([4]), 2), "cells: .4. are not all"),
        (lambda: metrics.grid_pointing(torch.zeros(2, 4, 4), torch.tensor([0]), 2), "cells: torch.int64 of shape"),
        (lambda: metrics.grid_of_images(torch.zeros(3, 1, 2, 2), 2), "images: shape"),
    ],
)
def test_errors_name_the_argument(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
