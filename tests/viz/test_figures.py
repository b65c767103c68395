"""Captum's figures: what is drawn on the axes is what Captum 0.9.0 draws."""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from captum.attr import visualization as captum

from fastsal import viz
from fastsal.viz.figures import METHODS, SIGNS

matplotlib.use("Agg")
RANDOM = np.random.default_rng(0)
ATTRIBUTION = RANDOM.standard_normal((9, 7, 3))
IMAGE = RANDOM.random((9, 7, 3))


def drawn(axis: Any) -> list[tuple[np.ndarray, str, Any, tuple[float, float]]]:
    return [
        (np.asarray(image.get_array()), image.get_cmap().name, image.get_alpha(), image.get_clim())
        for image in axis.images
    ]


def same(ours: Any, theirs: Any) -> None:
    assert len(ours.images) == len(theirs.images)
    for one, other in zip(drawn(ours), drawn(theirs), strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-12, atol=1e-12)
        assert one[1:3] == other[1:3]
        np.testing.assert_allclose(one[3], other[3])
    assert ours.get_title() == theirs.get_title()


def test_signatures_are_captums() -> None:
    for name in ("visualize_image_attr", "visualize_image_attr_multiple"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (viz, captum))
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("outliers", [2, *(pytest.param(percentage, marks=pytest.mark.slow) for percentage in (0, 50))])
def test_every_method_and_sign(method: str, sign: str, outliers: float) -> None:
    if sign == "all" and method in ("masked_image", "alpha_scaling"):
        with pytest.raises(ValueError, match="sign: 'all'"):
            viz.visualize_image_attr(ATTRIBUTION, IMAGE, method, sign, use_pyplot=False)
        return
    for image in (IMAGE, (IMAGE * 255).astype(np.uint8)):
        options = {"outlier_perc": outliers, "alpha_overlay": 0.3, "title": "a title", "use_pyplot": False}
        _, ours = viz.visualize_image_attr(ATTRIBUTION, image, method, sign, **options)
        _, theirs = captum.visualize_image_attr(ATTRIBUTION, image, method, sign, **options)
        same(ours, theirs)


def test_options() -> None:
    for options in ({"cmap": "inferno"}, {"show_colorbar": True}, {"fig_size": (3, 2)}):
        figure, ours = viz.visualize_image_attr(ATTRIBUTION[..., 0], use_pyplot=False, **options)
        expected, theirs = captum.visualize_image_attr(ATTRIBUTION[..., 0], use_pyplot=False, **options)
        same(ours, theirs)
        assert len(figure.axes) == len(expected.axes)
        assert tuple(figure.get_size_inches()) == tuple(expected.get_size_inches())
    figure, axis = viz.visualize_image_attr(ATTRIBUTION, IMAGE, "original_image", show_colorbar=True)
    assert viz.visualize_image_attr(ATTRIBUTION, plt_fig_axis=(figure, axis), use_pyplot=False) == (figure, axis)
    matplotlib.pyplot.close("all")


def test_tensors_and_images_of_one_channel() -> None:
    _, expected = viz.visualize_image_attr(ATTRIBUTION, IMAGE, "blended_heat_map", use_pyplot=False)
    tensors = torch.tensor(ATTRIBUTION, requires_grad=True), torch.tensor(IMAGE)
    _, found = viz.visualize_image_attr(*tensors, "blended_heat_map", use_pyplot=False)
    for one, other in zip(drawn(found), drawn(expected), strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1)  # a byte may round the other way in float32
    for method in METHODS:
        for image in (IMAGE[..., :1], IMAGE[..., 0]):
            viz.visualize_image_attr(ATTRIBUTION, image, method, use_pyplot=False)


def test_several() -> None:
    methods, signs = ["original_image", "heat_map", "masked_image"], ["all", "all", "positive"]
    _, ours = viz.visualize_image_attr_multiple(
        ATTRIBUTION, IMAGE, methods, signs, ["a", "b", "c"], use_pyplot=False, show_colorbar=True
    )
    _, theirs = captum.visualize_image_attr_multiple(
        ATTRIBUTION, IMAGE, methods, signs, ["a", "b", "c"], use_pyplot=False, show_colorbar=True
    )
    for one, other in zip(ours, theirs, strict=True):
        same(one, other)
    _, single = viz.visualize_image_attr_multiple(ATTRIBUTION, IMAGE, ["heat_map"], ["all"])
    assert len(single.images) == 1
    matplotlib.pyplot.close("all")


def test_attributions_without_anything_to_show() -> None:
    """Captum fails on a map of zeros."""
    with pytest.warns(UserWarning, match="attr: it is at most"):
        _, axis = viz.visualize_image_attr(np.zeros((4, 5)), use_pyplot=False)
    assert not np.asarray(axis.images[0].get_array()).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        viz.visualize_image_attr(np.ones((4, 5)), use_pyplot=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "heatmap"}, "method: 'heatmap' is not one of heat_map"),
        ({"sign": "both"}, "sign: 'both' is not one of positive"),
        ({"method": "masked_image"}, "original_image: None, but masked_image needs it"),
        ({"original_image": IMAGE[:4]}, r"original_image: \(4, 7\) is not the attribution's \(9, 7\)"),
        ({"attr": ATTRIBUTION[None]}, r"attr: shape \(1, 9, 7, 3\)"),
        ({"attr": np.full((3, 3), np.nan)}, "attr: it has NaN"),
        ({"outlier_perc": 100}, "outlier_perc: 100 is not in"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    arguments = {"attr": ATTRIBUTION, "use_pyplot": False, **options}
    with pytest.raises(ValueError, match=message):
        viz.visualize_image_attr(**arguments)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    for use_pyplot in (True, False):
        with pytest.raises(ImportError, match=r"fastsal\[plot\]"):
            viz.visualize_image_attr(ATTRIBUTION, use_pyplot=use_pyplot)
