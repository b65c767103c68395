"""The pointing game by hand-made maps."""

from __future__ import annotations

import pytest
import torch

from fastsal.metrics import pointing_game, pointing_hits


def peaks(*places: tuple[int, int]) -> torch.Tensor:
    maps = torch.zeros(len(places), 6, 8)
    for example, (row, column) in enumerate(places):
        maps[example, row, column] = 1
    return maps


def test_hits_and_their_share() -> None:
    masks = torch.zeros(4, 6, 8, dtype=torch.bool)
    masks[:, 2:4, 3:6] = True
    maps = peaks((2, 3), (3, 5), (1, 3), (5, 7))
    assert pointing_hits(maps, masks).tolist() == [True, True, False, False]
    assert pointing_game(maps, masks) == 0.5
    assert pointing_hits(maps, masks, tolerance=1).tolist() == [True, True, True, False]
    assert pointing_hits(maps, masks, tolerance=2).tolist() == [True] * 4


def test_the_tolerance_does_not_reach_around_the_edge() -> None:
    masks = torch.zeros(1, 6, 8, dtype=torch.bool)
    masks[0, 0, 0] = True
    assert not pointing_hits(peaks((0, 7)), masks, tolerance=2).any()
    assert pointing_hits(peaks((2, 2)), masks, tolerance=2).all()


def test_channels_are_summed_and_negative_peaks_are_none() -> None:
    masks = torch.zeros(1, 6, 8)
    masks[0, 1, 1] = 1
    maps = torch.stack([2 * peaks((0, 0))[0], 1.5 * peaks((1, 1))[0], 1.5 * peaks((1, 1))[0]])[None]
    assert pointing_hits(maps, masks).all()
    assert not pointing_hits(-peaks((1, 1)), masks).any()


def test_equal_maxima_and_missing_numbers() -> None:
    masks = torch.zeros(1, 6, 8)
    masks[0, 0, 0] = 1
    assert pointing_hits(torch.ones(1, 6, 8), masks).all()
    assert not pointing_hits(torch.full((1, 6, 8), torch.nan), masks).any()


def test_other_dimensions_and_shapes_that_do_not_fit() -> None:
    line = torch.tensor([[0.0, 3.0, 1.0]])
    assert pointing_hits(line, torch.tensor([[0, 1, 0]])).all()
    volume = torch.zeros(1, 2, 3, 4)
    volume[0, 1, 2, 3] = 1
    assert pointing_hits(volume, volume > 0).all()
    for maps, masks in ((torch.ones(2, 3, 3), torch.ones(1, 3, 3)), (torch.ones(2, 3, 3), torch.ones(2, 3, 4))):
        with pytest.raises(ValueError, match="maps, masks"):
            pointing_game(maps, masks)
    with pytest.raises(ValueError, match="tolerance"):
        pointing_game(torch.ones(1, 3, 3), torch.ones(1, 3, 3), tolerance=-1)
