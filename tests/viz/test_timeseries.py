"""Figures of time series: curves, strips and lines are those that Captum 0.9.0 draws."""

from __future__ import annotations

import inspect
from typing import Any

import matplotlib
import numpy as np
import pytest
from captum.attr import visualization as captum
from matplotlib import colors
from matplotlib.collections import LineCollection

from fastsal import viz
from fastsal.viz.timeseries import METHODS

matplotlib.use("Agg")
RANDOM = np.random.default_rng(0)
ATTRIBUTION = RANDOM.standard_normal((11, 3))
SERIES = RANDOM.standard_normal((11, 3)) + 2


def drawn(axis: Any) -> dict[str, Any]:
    lines = [each for each in axis.collections if isinstance(each, LineCollection)]
    return {
        "curves": [np.asarray(line.get_xydata()) for line in axis.lines],
        "strips": [np.asarray(colors.to_rgba(patch.get_facecolor())) for patch in axis.patches],
        "edges": [patch.get_x() for patch in axis.patches],
        "values": [np.asarray(each.get_array()) for each in lines],
        "pieces": [np.asarray(each.get_segments()) for each in lines],
        "limits": [each.get_clim() for each in lines],
    }


def test_the_signature_is_captums() -> None:
    ours, theirs = (inspect.signature(module.visualize_timeseries_attr).parameters.values() for module in (viz, captum))
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", ["positive", "all"])
def test_every_method(method: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Captum asks for a function that matplotlib has no more.
    monkeypatch.setattr(matplotlib.cm, "get_cmap", matplotlib.colormaps.get_cmap, raising=False)
    for options in ({}, {"x_values": np.linspace(2, 4, 11), "cmap": "viridis", "alpha_overlay": 0.4}):
        options = {"use_pyplot": False, "channel_labels": ["a", "b", "c"], **options}
        _, ours = viz.visualize_timeseries_attr(ATTRIBUTION, SERIES, method=method, sign=sign, **options)
        _, theirs = captum.visualize_timeseries_attr(ATTRIBUTION, SERIES, method=method, sign=sign, **options)
        for one, other in zip(np.atleast_1d(ours), np.atleast_1d(theirs), strict=True):
            found, expected = drawn(one), drawn(other)
            for name, values in expected.items():
                assert len(found[name]) == len(values), name
                for a, b in zip(found[name], values, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
            assert one.get_ylabel() == other.get_ylabel()
            if method != "overlay_combined":
                low, high = one.get_ylim()
                assert low < SERIES.max()
                assert high > SERIES.min()


def test_channels_may_come_first() -> None:
    _, ours = viz.visualize_timeseries_attr(ATTRIBUTION, SERIES, use_pyplot=False)
    _, turned = viz.visualize_timeseries_attr(ATTRIBUTION.T, SERIES.T, channels_last=False, use_pyplot=False)
    for one, other in zip(ours, turned, strict=True):
        np.testing.assert_allclose(drawn(one)["strips"], drawn(other)["strips"])


def test_a_bar_and_a_title() -> None:
    figure, axes = viz.visualize_timeseries_attr(
        ATTRIBUTION, SERIES, show_colorbar=True, title="a title", use_pyplot=False
    )
    assert axes[0].get_title() == "a title"
    assert len(figure.axes) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lines"}, "method: 'lines' is not one of"),
        ({"data": SERIES[:5]}, "data: shape"),
        ({"x_values": np.arange(4)}, "x_values: shape"),
        ({"channel_labels": ["a"]}, "channel_labels: 1 given for 3 channels"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        viz.visualize_timeseries_attr(**{"attr": ATTRIBUTION, "data": SERIES, "use_pyplot": False, **change})
    with pytest.warns(UserWarning, match="3 channels of 2 times"):
        viz.visualize_timeseries_attr(ATTRIBUTION[:2], SERIES[:2], use_pyplot=False)
