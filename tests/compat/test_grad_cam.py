"""fastsal.compat.grad_cam's methods of one pass against pytorch-grad-cam's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsal.compat import grad_cam
from fastsal.compat.grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    FinerWeightedTarget,
)
from tests.compat.grad_cam_formulas import (
    ALL,
    CLASSES,
    CLOSE,
    LAYERS,
    NO_TARGET,
    PROJECTED,
    TARGETS,
    WEIGHTED,
    activations,
    layer_values,
    mean,
    modules,
    projected,
    rendered,
    score_weights,
    setting,
)
from tests.explainers.networks import image, small, unchanged


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("layers", [["body"], LAYERS], ids=["one", "two"])
@pytest.mark.parametrize("name", [*WEIGHTED, *PROJECTED])
def test_methods_of_one_pass(name: str, layers: list[str], dimensions: int) -> None:
    model, x = setting(dimensions)
    cams = []
    for a, g in layer_values(model, layers, x, TARGETS):
        cams.append(PROJECTED[name](a, g) if name in PROJECTED else WEIGHTED[name](a, g).sum(1))
    found = getattr(grad_cam, name)(model, modules(model, layers))(x, TARGETS)
    assert found.dtype == np.float32
    assert found.shape == (3, *x.shape[2:])
    np.testing.assert_allclose(found, rendered(cams, x.shape[2:]), **CLOSE)


@pytest.mark.parametrize("name", [*WEIGHTED, *PROJECTED, "ScoreCAM"])
def test_eigen_smooth(name: str) -> None:
    model, x = setting()
    cam = getattr(grad_cam, name)(model, modules(model, LAYERS))
    found = cam(x, TARGETS, eigen_smooth=True)
    if name in PROJECTED or name == "FEM":
        np.testing.assert_array_equal(found, cam(x, TARGETS))
        return
    if name == "ScoreCAM":
        cams = [projected(score_weights(model, name, x)[:, :, None, None] * a) for name, a in activations(model, x)]
    else:
        cams = [projected(WEIGHTED[name](a, g)) for a, g in layer_values(model, LAYERS, x, TARGETS)]
    np.testing.assert_allclose(found, rendered(cams, x.shape[2:]), **CLOSE)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "EigenCAM"])
def test_aug_smooth(name: str) -> None:
    model, x = setting()
    cam = getattr(grad_cam, name)(model, [model.body])
    maps = [cam(factor * x, TARGETS) for factor in (0.9, 1, 1.1)]
    maps += [cam(factor * x.flip(3), TARGETS)[:, :, ::-1] for factor in (0.9, 1, 1.1)]
    np.testing.assert_allclose(cam(x, TARGETS, aug_smooth=True), np.mean(maps, axis=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in ALL if name != "RandomCAM"])
def test_without_targets_the_highest_score(name: str) -> None:
    model, x = setting()
    cam = getattr(grad_cam, name)(model, [model.body])
    highest = [ClassifierOutputTarget(int(each)) for each in model(x).argmax(1)]
    if name == "FinerCAM":
        scores = model(x).detach().numpy()
        orders = [np.argsort(abs(row - row.max()), kind="stable").tolist() for row in scores]
        highest = [FinerWeightedTarget(order[0], order[1:], 1) for order in orders]
    np.testing.assert_allclose(cam(x), cam(x, highest), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(cam.outputs, model(x).detach())


@pytest.mark.parametrize("name", [name for name in ALL if name not in NO_TARGET])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_targets_is_refused(name: str, count: int) -> None:
    model, x = small(), image()
    with unchanged(model, x), pytest.raises(ValueError, match=f"targets: {count} given for 3 images"):
        getattr(grad_cam, name)(model, [model.body])(x, [ClassifierOutputTarget(0)] * count)


def test_shapley_cam() -> None:
    model, x = setting()
    with torch.no_grad():
        model.head.weight *= 40  # so that the softmax is curved
    targets = [ClassifierOutputSoftmaxTarget(each) for each in CLASSES]
    a = model.body(model.act(model.norm(model.stem(x)))).detach().requires_grad_()

    def score(a: Tensor) -> Tensor:
        probabilities = model.head(a.relu().flatten(2).mean(2)).softmax(1)
        return probabilities[range(3), CLASSES].sum()

    (g,) = torch.autograd.grad(score(a), a)
    _, product = torch.autograd.functional.hvp(score, a, a.detach())
    assert product.abs().max() > 0.1 * g.abs().max()
    cams = (mean((g - product / 2).numpy()) * a.detach().numpy()).sum(1)
    found = grad_cam.ShapleyCAM(model, [model.body])(x, targets)
    np.testing.assert_allclose(found, rendered([cams], x.shape[2:]), **CLOSE)


def test_random_cam_draws_from_numpy() -> None:
    model, x = setting()
    (a, _), *_ = layer_values(model, ["body"], x, TARGETS)
    np.random.seed(7)
    found = grad_cam.RandomCAM(model, [model.body])(x)
    np.random.seed(7)
    weights = np.random.uniform(-1, 1, size=(3, 6))
    np.testing.assert_allclose(found, rendered([(weights[:, :, None, None] * a).sum(1)], x.shape[2:]), **CLOSE)
