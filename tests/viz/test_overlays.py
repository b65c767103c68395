"""Coloured maps and overlays."""

from __future__ import annotations

import pytest
import torch

import fastsal
from fastsal import viz
from fastsal.viz import colorize, colormap, diverging_colormap, overlay
from tests.explainers.networks import image, small


def test_colorize_looks_up_the_level() -> None:
    maps = torch.tensor([[0.0, 1.0, 0.5, -3.0, 7.0, torch.nan]])
    assert torch.equal(colorize(maps)[0], colormap()[[0, 255, 128, 0, 255, 0]])
    assert torch.equal(colorize(maps, diverging_colormap())[0, 1], diverging_colormap()[255])


def test_overlay_blends() -> None:
    image = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8)
    maps = torch.rand(2, 5, 4)
    expected = (0.3 * colorize(maps).double() + 0.7 * image.double()).round()
    assert (overlay(maps, image, 0.3).double() - expected).abs().max() <= 1
    assert torch.equal(overlay(maps, image, 0.0), image)
    assert torch.equal(overlay(maps, image, 1.0), colorize(maps))


def test_overlay_shows_the_image_where_the_map_is_nan() -> None:
    image = torch.randint(0, 256, (1, 2, 3), dtype=torch.uint8)
    assert torch.equal(overlay(torch.tensor([[torch.nan, 1.0]]), image)[0, 0], image[0, 0])


def test_overlay_matches_the_op() -> None:
    """cam.overlay draws the same pixels from activations and gradients, but for a level that rounds the other way."""
    from fastsal.ops import cam

    activations, gradients = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    image = torch.randint(0, 256, (2, 24, 24, 3), dtype=torch.uint8)
    fused = cam.overlay(activations, gradients, image, colormap(), alpha=0.5)
    composed = overlay(cam.map(activations, gradients, (24, 24)), image)
    assert (fused.int() - composed.int()).abs().max() <= 2


def test_errors() -> None:
    image = torch.zeros(2, 2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="image must be uint8"):
        overlay(torch.zeros(3, 2), image)
    with pytest.raises(ValueError, match="image must be uint8"):
        overlay(torch.zeros(2, 2), image.float())
    with pytest.raises(ValueError, match="alpha must be between"):
        overlay(torch.zeros(2, 2), image, 1.5)
    with pytest.raises(TypeError, match="floating point"):
        overlay(torch.zeros(2, 2, dtype=torch.uint8), image)
    with pytest.raises(ValueError, match="colors must be uint8"):
        colorize(torch.zeros(2, 2), torch.zeros(255, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="H, W"):
        colorize(torch.zeros(2))


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "EigenCAM", "ScoreCAM"])
def test_an_overlay_without_a_map_is_that_of_the_map(name: str) -> None:
    model, x = small(), image()
    picture = torch.randint(256, (3, *x.shape[2:], 3), dtype=torch.uint8)
    explainer = getattr(fastsal, name)(model, "last")
    reading = explainer.read(x, 1)
    found = viz.overlay(explainer.summed(reading), picture, alpha=0.7)
    expected = viz.overlay(explainer.render(reading, x)[:, 0], picture, alpha=0.7)
    assert (found.int() - expected.int()).abs().max() <= 1  # a level may be rounded the other way
    several = getattr(fastsal, name)(model, ["body", "last"])
    with pytest.raises(ValueError, match="reading: it has 2 layers"):
        several.summed(several.read(x, 1))


@pytest.mark.parametrize("size", [(48, 64), (96, 128)], ids=["as the input", "twice the input"])
@pytest.mark.parametrize("dim", [2, 3])
def test_an_overlay_lies_where_the_layer_looks(dim: int, size: tuple[int, int]) -> None:
    """The layer sees the image mirrored, or a part of it: the hottest pixel is where the spot is in the image."""

    class Mirrored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.AvgPool2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flip(dim)[:, :, :, 16:]).square().sum((2, 3))

    x = torch.zeros(1, 1, 48, 64)
    x[:, :, 12:16, 24:28] = 1
    explainer = fastsal.LayerCAM(Mirrored().eval(), "layer")
    levels = torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 3).contiguous()
    picture = torch.zeros(1, *size, 3, dtype=torch.uint8)
    found = viz.overlay(explainer.summed(explainer.read(x, 0)), picture, alpha=1.0, colors=levels)[0, :, :, 0]
    spot = found.float() / found.max()
    rows, columns = (spot > 0.9).nonzero().float().mean(0)
    scale = size[0] / 48
    assert abs(float(rows) - (13.5 + 0.5) * scale + 0.5) <= scale
    assert abs(float(columns) - (25.5 + 0.5) * scale + 0.5) <= scale
