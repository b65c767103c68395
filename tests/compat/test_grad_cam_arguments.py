"""fastsal.compat.grad_cam's transforms and targets, its refusals, and its maps against the package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fastsal.compat import grad_cam
from fastsal.compat.grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    FasterRCNNBoxScoreTarget,
    RawScoresOutputTarget,
    SemanticSegmentationTarget,
    SoftmaxOutputTarget,
)
from fastsal.compat.grad_cam.utils.reshape_transforms import (
    fasterrcnn_reshape_transform,
    swinT_reshape_transform,
    vit_reshape_transform,
)
from tests.compat.grad_cam_formulas import ALL, CLASSES, TARGETS
from tests.explainers.networks import image, small


def test_reshape_transforms() -> None:
    tokens = torch.arange(2 * 7 * 3).view(2, 7, 3)
    grid = tokens[:, 1:].reshape(2, 2, 3, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(vit_reshape_transform(tokens, 2, 3), grid)
    torch.testing.assert_close(swinT_reshape_transform(tokens[:, 1:], 2, 3), grid)
    pyramid = {"0": -torch.ones(1, 2, 8, 8), "pool": torch.ones(1, 3, 2, 2)}
    torch.testing.assert_close(fasterrcnn_reshape_transform(pyramid), torch.ones(1, 5, 2, 2))


def test_targets() -> None:
    row, rows = torch.randn(5), torch.randn(2, 5)
    assert ClassifierOutputTarget(3)(row) == row[3]
    torch.testing.assert_close(ClassifierOutputTarget(3)(rows), rows[:, 3])
    torch.testing.assert_close(ClassifierOutputSoftmaxTarget(3)(row), row.exp()[3] / row.exp().sum())
    loss = nn.functional.cross_entropy(row[None], torch.tensor([3]))
    torch.testing.assert_close(ClassifierOutputReST(3)(row), row[3] - loss)
    assert BinaryClassifierOutputTarget(1)(row[:1]) == row[0]
    assert BinaryClassifierOutputTarget(0)(row[:1]) == -row[0]
    torch.testing.assert_close(SoftmaxOutputTarget()(rows), rows.exp() / rows.exp().sum(1, keepdim=True))
    assert RawScoresOutputTarget()(row) is row
    mask = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    scores = torch.randn(3, 2, 2)
    torch.testing.assert_close(SemanticSegmentationTarget(1, mask)(scores), scores[1, 0, 0] + scores[1, 1, 1])
    found = {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), "labels": torch.tensor([1, 2])}
    found["scores"] = torch.tensor([0.9, 0.8])
    boxes = np.array([[0, 0, 10, 8], [20, 20, 30, 30]], dtype=np.float32)
    torch.testing.assert_close(FasterRCNNBoxScoreTarget([1, 1], boxes)(found), torch.tensor(0.8 + 0.9))


def test_refusals() -> None:
    model, x = small(), image()
    cam = grad_cam.GradCAM(model, [model.body])
    with pytest.raises(TypeError, match="target_layers: pass a list"):
        grad_cam.GradCAM(model, model.body)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none named 'bodi'; did you mean body"):
        grad_cam.GradCAM(model, ["bodi"])
    with pytest.raises(TypeError, match=r"2 is not callable; wrap a class as ClassifierOutputTarget"):
        cam(x, [2, 0, 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="input_tensor: list is not a tensor"):
        cam([x])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"input_tensor: shape \(3, 8\)"):
        cam(x[0, :, :, 0])
    with pytest.raises(ValueError, match=r"an output \(3, 4\) has not the dimensions"):
        grad_cam.GradCAM(model, [model.head])(x)
    with pytest.raises(ValueError, match=r"ratio_channels_to_ablate: 0\.5"):
        grad_cam.AblationCAM(model, [model.body], ratio_channels_to_ablate=0.5)
    with pytest.raises(ValueError, match=r"targets: without them .* \[B, K\], this is \(3, 5, 8, 9\)"):
        grad_cam.GradCAM(nn.Sequential(model.stem, model.norm), [model.stem])(x)
    with pytest.raises(NotImplementedError, match=r"get_cam_image\(\) of pytorch-grad-cam are not called"):
        grad_cam.BaseCAM(model, [model.body])
    with pytest.raises(ValueError, match="comparison_categories"):
        grad_cam.FinerCAM(model, [model.body])(x, comparison_categories=[4])


# Their sign depends on the LAPACK.
THEIRS = [name for name in ALL if name not in ("EigenCAM", "EigenGradCAM")]


# Its ShapleyCAM cannot be deleted without an error: it detaches views in place.
@pytest.mark.filterwarnings(r"ignore:.*<function BaseCAM\.__del__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", THEIRS)
def test_against_the_package(name: str) -> None:
    theirs = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets", reason="pytorch-grad-cam is not installed")
    model, x = small(), image()
    given = [targets.ClassifierOutputTarget(each) for each in CLASSES]
    np.random.seed(0)
    # After a ReLU: there it ablates with 0.
    expected = getattr(theirs, name)(model, [model.last])(x, given)
    np.random.seed(0)
    found = getattr(grad_cam, name)(model, [model.last])(x, TARGETS)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
