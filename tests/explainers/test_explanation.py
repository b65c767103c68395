"""Explanation: what it carries, and that a file of it is the same and holds no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import TwoInputs, image, small


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (tuple, list)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_it_says_how_it_was_made() -> None:
    explanation = fastsal.explain(small(), image(), ["gradcam", "rise", "saliency"], n_masks=12, seed=3)
    assert explanation.kind == "image"
    assert explanation.axes == ("example", "channel", "height", "width")
    assert explanation.method == ("gradcam", "rise", "saliency")
    assert explanation.options["rise"] == {"n_masks": 12, "seed": 3}
    assert explanation.layer == {"gradcam": "last", "rise": None, "saliency": None}
    assert explanation.versions["fastsal"] == fastsal.__version__
    with pytest.raises(ValueError, match="map: there are 3, by gradcam, rise, saliency"):
        _ = explanation.map


@pytest.mark.parametrize(
    ("shape", "kind", "axes"),
    [
        ((2, 3, 8), "series", ("example", "channel", "time")),
        ((2, 3, 4, 8, 8), "volume", ("example", "channel", "depth", "height", "width")),
        ((2, 6), "table", ("example", "feature")),
    ],
)
def test_kinds(shape: tuple[int, ...], kind: str, axes: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(torch.tensor(shape[1:]).prod()), 3))
    explanation = fastsal.explain(model, torch.randn(shape), "saliency")
    assert (explanation.kind, explanation.axes) == (kind, axes)
    assert fastsal.explain(model, torch.randn(shape), "saliency", kind=kind).kind == kind


def test_a_video_is_one_where_it_is_said() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 4 * 4, 3))
    explanation = fastsal.explain(model, torch.randn(1, 3, 2, 4, 4), "saliency", kind="video")
    assert explanation.axes == ("example", "channel", "time", "height", "width")
    with pytest.raises(ValueError, match="kind: 'film' is not one of image, volume, video"):
        fastsal.explain(model, torch.randn(1, 3, 2, 4, 4), "saliency", kind="film")


@pytest.mark.parametrize("target", [None, 2, [0, 1, 2], torch.tensor([3, 1, 0])], ids=str)
def test_a_file_of_it_is_the_same(target: Any, tmp_path: Path) -> None:
    explanation = fastsal.explain(small(), image(), ["gradcam", "occlusion"], target, baselines=torch.zeros(1, 3, 8, 9))
    path = explanation.save(tmp_path / "explanation.safetensors")
    found = fastsal.Explanation.load(path)
    for name in ("output", "maps", "seconds", "kind", "axes", "method", "layer", "versions", "options"):
        assert same(getattr(explanation, name), getattr(found, name)), name
    assert same(torch.as_tensor(explanation.target), torch.as_tensor(found.target))


def test_maps_of_several_inputs_are_kept_in_their_form(tmp_path: Path) -> None:
    inputs = (torch.randn(3, 3, 4), torch.randn(3, 5))
    explanation = fastsal.explain(TwoInputs().eval(), inputs, "saliency")
    found = fastsal.Explanation.load(explanation.save(tmp_path / "a.safetensors"))
    assert same(explanation.maps, found.maps)


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other, text = tmp_path / "weights.safetensors", tmp_path / "text.safetensors"
    save_file({"weight": torch.zeros(2)}, str(other))
    text.write_text("no tensors")
    for path in (other, text):
        with pytest.raises(ValueError, match=r"path: .* is no explanation that can be read"):
            fastsal.Explanation.load(path)
    with pytest.raises(FileNotFoundError):
        fastsal.Explanation.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("spelling", ["gradcam", "GradCAM", "grad-cam", "grad_cam", "Grad CAM"])
def test_names_are_taken_in_any_spelling(spelling: str) -> None:
    model, x = small(), image()
    torch.testing.assert_close(
        fastsal.explain(model, x, spelling).map, fastsal.explain(model, x, "grad-cam", layer="last").map
    )


OLD = """gradcam smoothgrad xgradcam gradcam++ smooth-gradcam++ layercam hirescam gradcam-element-wise
finercam shapleycam eigencam eigengradcam kpca-cam fem ablationcam scorecam ss-cam is-cam fullgrad
random-cam rise occlusion saliency input-x-gradient integrated-gradients deep-lift guided-backprop
deconvolution"""


@pytest.mark.parametrize("old", OLD.split())
def test_the_old_names_are_taken(old: str) -> None:
    from fastsal.explainers.registry import find

    assert find(old).summary
