"""fastsal.compat.grad_cam's FullGrad, FinerCAM and RefineCAM against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsal.compat import grad_cam
from tests.compat.grad_cam_formulas import (
    CLASSES,
    CLOSE,
    LAYERS,
    TARGETS,
    Array,
    fem,
    layer_values,
    modules,
    plus_plus,
    projected,
    rendered,
    scale,
    setting,
)
from tests.explainers.networks import Small, image, small


def full_grad_channels(model: Small, x: Tensor) -> list[Array]:
    leaf = x.clone().requires_grad_()
    stem = model.stem(leaf)
    norm = model.norm(stem)
    body = model.body(norm.relu())
    output = model.head(body.relu().flatten(2).mean(2))
    gradients = torch.autograd.grad(output[range(3), CLASSES].sum(), [leaf, stem, norm, body])
    shift = model.norm.running_mean * model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    biases = [model.stem.bias, model.norm.bias - shift, model.body.bias]
    size = tuple(x.shape[2:])

    def each_scaled(values: Array) -> Array:
        return scale(values.reshape(-1, *values.shape[2:]), size).reshape(*values.shape[:2], *size)

    channels = [each_scaled((x * gradients[0]).abs().numpy())]
    for bias, gradient in zip(biases, gradients[1:], strict=True):
        product = bias.detach().view(1, -1, *[1] * len(size)) * gradient
        channels.append(each_scaled(product.abs().numpy()).sum(1, keepdims=True))
    return channels


@pytest.mark.parametrize("dimensions", [2, 3])
def test_full_grad(dimensions: int) -> None:
    model, x = setting(dimensions)
    expected = scale(np.concatenate(full_grad_channels(model, x), axis=1).sum(1))
    np.testing.assert_allclose(grad_cam.FullGrad(model, [])(x, TARGETS), expected, **CLOSE)


def test_full_grad_eigen_smooth() -> None:
    model, x = small(dtype=torch.float64), image(size=32, dtype=torch.float64)
    stacked = np.concatenate(full_grad_channels(model, x), axis=1)
    small_maps = scale(stacked.reshape(-1, *stacked.shape[2:]), (4, 4)).reshape(*stacked.shape[:2], 4, 4)
    expected = scale(scale(projected(small_maps), tuple(x.shape[2:])))
    found = grad_cam.FullGrad(model, [])(x, TARGETS, eigen_smooth=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("base", ["GradCAM", "LayerCAM", "ScoreCAM"])
def test_finer_cam(base: str) -> None:
    model, x = setting()
    scores = model(x).detach().numpy()
    base_method = getattr(grad_cam, base)
    cam = grad_cam.FinerCAM(model, [model.body], base_method=base_method)
    for options in ({}, {"alpha": 0.5, "comparison_categories": [1, 3], "target_idx": 1}):
        main = scores.max(1) if not options else scores[:, 1]
        order = np.argsort(abs(scores - main[:, None]), axis=1, kind="stable")
        ranks = options.get("comparison_categories", [1, 2, 3])

        def score(row: Tensor, index: int, order: Array = order, ranks: Any = ranks, o: Any = options) -> Tensor:
            weights = row.softmax(0)[order[index, ranks]]
            gaps = row[order[index, 0]] - o.get("alpha", 1) * row[order[index, ranks]]
            return (weights * gaps).sum() / (weights.sum() + 1e-9)

        targets = [lambda row, i=i, score=score: score(row, i) for i in range(3)]
        expected = base_method(model, [model.body])(x, targets)
        np.testing.assert_allclose(cam(x, **options), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eigen_smooth", [False, True])
def test_refine_cam(eigen_smooth: bool) -> None:
    model, x = setting()
    maps = []
    for a, g in layer_values(model, LAYERS, x, TARGETS):
        weighted = plus_plus(a, g)
        maps.append(rendered([projected(weighted) if eigen_smooth else weighted.sum(1)], x.shape[2:]))
    found = grad_cam.RefineCAM(model, modules(model, LAYERS))(x, TARGETS, eigen_smooth)
    np.testing.assert_allclose(found, scale(np.prod(maps, axis=0)), **CLOSE)
    other = grad_cam.RefineCAM(model, [model.body], base_method=grad_cam.FEM, k=1)(x)
    cams = fem(layer_values(model, ["body"], x, TARGETS)[0][0], 1).sum(1)
    np.testing.assert_allclose(other, rendered([cams], x.shape[2:]), **CLOSE)
