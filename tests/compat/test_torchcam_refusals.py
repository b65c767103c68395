"""What torchcam's interface refuses, by its message, and its overlay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastsal.compat.torchcam import methods
from fastsal.compat.torchcam.utils import overlay_mask
from tests.compat.test_torchcam import LAYERS, failing, make
from tests.explainers.networks import image, small


def test_refusals() -> None:
    model, x = small(), image()
    with make("GradCAM", model) as extractor:
        scores = model(x)
        for options in ({}, {"class_idx": 1, "targets": failing}):
            with pytest.raises(ValueError, match="give one of the two"):
                extractor(scores=scores, **options)
        with pytest.raises(ValueError, match="class_idx: 2 given for 3 examples"):
            extractor([0, 1], scores)
        with pytest.raises(ValueError, match="targets: 2 given for 3 examples"):
            extractor(scores=scores, targets=[failing] * 2)
        with pytest.raises(ValueError, match="class_idx: -1 is neither"):
            extractor(-1, scores)
        with pytest.raises(ValueError, match="scores: the model's output is needed"):
            extractor(1)
        with pytest.raises(RuntimeError, match="scores: they have no graph"):
            extractor(1, scores.detach())
        with pytest.raises(RuntimeError, match="do not depend on what was read of layer body"):
            extractor(1, torch.zeros(3, 4, requires_grad=True))
    with pytest.raises(ValueError, match="none named 'bodi'; did you mean body"):
        make("GradCAM", model, "bodi")
    with pytest.raises(ValueError, match="the module is none of the model's"):
        make("GradCAM", model, nn.ReLU())
    with pytest.raises(TypeError, match="layer: int is neither"):
        make("GradCAM", model, 3)
    with pytest.raises(ValueError, match="CAM reads one layer"):
        make("CAM", model, LAYERS)
    with make("CAM", model) as extractor, pytest.raises(ValueError, match="targets: CAM explains a class"):
        extractor(targets=failing)
    assert not any(module._forward_hooks for module in model.modules())


def test_refusals_of_the_composed() -> None:
    model, x = small(), image()
    with pytest.raises(TypeError, match="base_method: pass one of the other"):
        methods.RefineCAM(model, "body", base_method=methods.FinerCAM)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="base_method: pass GradCAM"):
        methods.FinerCAM(model, "body", base_method=methods.ScoreCAM)
    for options, message in (({"gamma": -1}, "gamma: -1"), ({"num_references": 0}, "num_references: 0")):
        with pytest.raises(ValueError, match=message):
            methods.FinerCAM(model, "body", **options)
    with methods.FinerCAM(model, "body") as extractor:
        scores = model(x)
        for given, error, message in (
            ((1, None), ValueError, "scores: the model's output"),
            ((1, [scores]), TypeError, "scores: list"),
            ((9, scores), ValueError, "class_idx: 9 is out of range"),
            (([1, 2], scores), ValueError, "class_idx: 2 given for 3"),
            ((1, scores, []), ValueError, "comparison_idx: 0 given"),
            ((1, scores, [1, 2]), ValueError, "comparison_idx: it has the class"),
            ((1, scores, [[2], [3]]), ValueError, "comparison_idx: 2 given for 3"),
            ((1, scores, ["2"]), TypeError, "comparison_idx:"),
        ):
            with pytest.raises(error, match=message):
                extractor(*given)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_overlay(mode: str) -> None:
    colormaps = pytest.importorskip("matplotlib", reason="Matplotlib is not installed").colormaps
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).convert(mode)
    mask = Image.fromarray(np.float32(generator.random((6, 8))), mode="F")
    colors = np.uint8(255 * colormaps["jet"](np.asarray(mask) ** 2)[..., :3])
    expected = 0.6 * np.asarray(picture.convert("RGB"), dtype=float) + 0.4 * colors
    found = np.asarray(overlay_mask(picture, mask, alpha=0.6))
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1.5
    assert overlay_mask(picture.resize((20, 10)), mask).size == (20, 10)


def test_overlay_refusals() -> None:
    picture = Image.new("RGB", (2, 2))
    with pytest.raises(TypeError, match="img, mask: Image and ndarray"):
        overlay_mask(picture, np.ones((2, 2)))  # type: ignore[arg-type]
    for alpha in (1.0, 1, -0.1):
        with pytest.raises(ValueError, match="alpha:"):
            overlay_mask(picture, picture.convert("F"), alpha=alpha)
    with pytest.raises(ValueError, match="img: mode RGBA"):
        overlay_mask(picture.convert("RGBA"), picture.convert("F"))


def test_overlay_against_the_package() -> None:
    theirs = pytest.importorskip("torchcam.utils", reason="torchcam is not installed")
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    mask = Image.fromarray(np.float32(generator.random((3, 4))), mode="F")
    expected = np.asarray(theirs.overlay_mask(picture, mask)).astype(int)
    assert np.abs(np.asarray(overlay_mask(picture, mask)).astype(int) - expected).max() <= 1
