"""From attributions to maps in [0, 1]."""

from __future__ import annotations

import pytest
import torch

from fastsal.viz import plane, to_unit


def test_plane_sums_channels_with_their_sign() -> None:
    attribution = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(plane(attribution), attribution.float().sum(1))
    with pytest.raises(ValueError, match="C, H, W"):
        plane(torch.zeros(4, 5))


def test_range_uses_each_maps_own_extremes() -> None:
    maps = torch.tensor([[[1.0, 2], [3, 5]], [[-4, -4], [0, 4]]])
    expected = torch.tensor([[[0, 0.25], [0.5, 1]], [[0, 0], [0.5, 1]]])
    torch.testing.assert_close(to_unit(maps), expected)


@pytest.mark.parametrize(
    ("sign", "expected"),
    [("positive", [0.0, 0, 1]), ("absolute", [1.0, 0, 0.5]), ("diverging", [0.0, 0.5, 0.75])],
)
def test_signs(sign: str, expected: list[float]) -> None:
    torch.testing.assert_close(to_unit(torch.tensor([[-2.0, 0, 1]]), sign=sign), torch.tensor([expected]))


def test_percentile_clips_the_outlier() -> None:
    values = torch.arange(101.0)
    values[100] = 1e6
    unit = to_unit(values.view(1, 101), sign="absolute", percentile=99)
    torch.testing.assert_close(unit[0, :100], torch.arange(100.0) / 99)
    assert unit[0, 100] == 1


@pytest.mark.parametrize(("sign", "value"), [("range", 0.0), ("absolute", 0.0), ("diverging", 0.5)])
def test_constant_maps(sign: str, value: float) -> None:
    assert (to_unit(torch.zeros(3, 4), sign=sign) == value).all()


def test_constant_map_in_range_is_zero() -> None:
    assert (to_unit(torch.full((3, 4), 7.0)) == 0).all()


@pytest.mark.parametrize("sign", ["range", "positive", "absolute", "diverging"])
def test_nan_stays_where_it_is(sign: str) -> None:
    maps = torch.tensor([[torch.nan, 1.0, 3.0, 2.0]])
    unit = to_unit(maps, sign=sign)
    assert unit.isnan().tolist() == [[True, False, False, False]]
    assert unit[0, 2] == 1
    assert to_unit(torch.full((1, 4), torch.nan), sign=sign).isnan().all()


def test_half_precision_becomes_float32() -> None:
    assert to_unit(torch.rand(2, 2).bfloat16()).dtype == torch.float32


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="sign must be one of range, positive"):
        to_unit(torch.zeros(2, 2), sign="both")
    with pytest.raises(ValueError, match="percentile must be above 0"):
        to_unit(torch.zeros(2, 2), percentile=0)
    with pytest.raises(ValueError, match="maps must be"):
        to_unit(torch.zeros(2))
