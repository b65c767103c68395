"""The colour maps: uniform in Oklab, monotone in lightness, inside sRGB."""

from __future__ import annotations

import pytest
import torch

from fastsal.viz import colormap, diverging_colormap
from fastsal.viz.colors import diverging_path, oklab_to_srgb, sequential_path, srgb_to_oklab


def test_oklab_of_known_colours() -> None:
    """White has lightness 1 and no chroma; sRGB's red has the published Oklab coordinates."""
    lab = srgb_to_oklab(torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]]))
    expected = torch.tensor([[1.0, 0, 0], [0.628, 0.225, 0.126], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(lab, expected, atol=1e-3, rtol=0)


def test_oklab_round_trip() -> None:
    colours = torch.rand(100, 3, dtype=torch.float64)
    torch.testing.assert_close(oklab_to_srgb(srgb_to_oklab(colours)), colours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", [sequential_path(), diverging_path()])
def test_paths_stay_inside_srgb(path: torch.Tensor) -> None:
    srgb = oklab_to_srgb(path)
    assert srgb.min() >= 0
    assert srgb.max() <= 1


def test_sequential_path_has_equal_steps() -> None:
    """Within 2 %, what cutting the path at 4,096 samples leaves."""
    steps = sequential_path().diff(dim=0).norm(dim=1)
    torch.testing.assert_close(steps, steps.mean().expand(255), rtol=0.02, atol=0)


def test_sequential_colours() -> None:
    """In 8 bits: lightness rises at every step and is linear within 0.002, and eight steps are equal within 10 %."""
    colours = colormap()
    assert colours.dtype == torch.uint8
    assert colours.shape == (256, 3)
    lab = srgb_to_oklab(colours / 255)
    assert (lab[:, 0].diff() > 0).all()
    torch.testing.assert_close(lab[:, 0], torch.linspace(0.20, 0.95, 256, dtype=torch.float64), atol=2e-3, rtol=0)
    spans = (lab[8:] - lab[:-8]).norm(dim=1)
    torch.testing.assert_close(spans, spans.mean().expand_as(spans), rtol=0.10, atol=0)


def test_diverging_colours() -> None:
    """Lightest and grey in the middle, as light on one side as on the other, each side with equal steps."""
    lab = srgb_to_oklab(diverging_colormap() / 255)
    torch.testing.assert_close(lab[:, 0], lab[:, 0].flip(0), atol=5e-3, rtol=0)
    assert lab[:, 0].argmax() in (127, 128)
    assert lab[127:129, 1:].norm(dim=1).max() < 0.01
    steps = diverging_path()[:128].diff(dim=0).norm(dim=1)
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-6, atol=0)


def test_a_colormap_is_the_callers_own() -> None:
    colormap().zero_()
    assert colormap().sum() > 0
