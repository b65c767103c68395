"""fastsal.compat.grad_cam's ScoreCAM and AblationCAM against loops over channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastsal.compat import grad_cam
from tests.compat.grad_cam_formulas import (
    CLASSES,
    CLOSE,
    LAYERS,
    TARGETS,
    Array,
    activations,
    layer_values,
    modules,
    rendered,
    score_weights,
    setting,
)
from tests.explainers.networks import Small


@pytest.mark.parametrize("dimensions", [2, 3])
def test_score_cam(dimensions: int) -> None:
    model, x = setting(dimensions)
    cams = []
    for name, a in activations(model, x):
        weights = score_weights(model, name, x)
        cams.append((weights.reshape(*weights.shape, *[1] * dimensions) * a).sum(1))
    cam = grad_cam.ScoreCAM(model, modules(model, LAYERS))
    found = cam(x, TARGETS)
    np.testing.assert_allclose(found, rendered(cams, x.shape[2:]), **CLOSE)
    for batch_size in (1, 4, 100):
        cam.batch_size = batch_size
        np.testing.assert_allclose(cam(x, TARGETS), found, rtol=1e-6, atol=1e-7)


def ablated_scores(model: Small, layer: str, x: Tensor, values: list[float]) -> Array:
    a = dict(layer_values_of(model, layer, x))[layer]
    scores = np.zeros(a.shape[:2])
    for row, channel in np.ndindex(*scores.shape):
        changed = torch.from_numpy(a[row : row + 1].copy())
        changed[:, channel] = values[row]
        handle = model.get_submodule(layer).register_forward_hook(lambda *_, changed=changed: changed)
        with torch.no_grad():
            scores[row, channel] = model(x[row : row + 1])[0, CLASSES[row]]
        handle.remove()
    return scores


def layer_values_of(model: nn.Module, layer: str, x: Tensor) -> list[tuple[str, Array]]:
    return [(layer, layer_values(model, [layer], x, TARGETS)[0][0])]


@pytest.mark.parametrize("layer", ["last", "act", "body", "stem"])
def test_ablation_cam(layer: str) -> None:
    """0 behind a ReLU, with the classifier alone after it or more; else the minimum less 1e7."""
    model, x = setting()
    a = dict(layer_values_of(model, layer, x))[layer]
    lows = [float(each.min()) for each in a]
    values = [0.0 if low == 0 else low - 1e7 for low in lows]
    assert (layer in ("last", "act")) == all(value == 0 for value in values)
    clean = model(x).detach().numpy()[range(3), CLASSES][:, None]
    weights = (clean - ablated_scores(model, layer, x, values)) / clean
    cams = (weights[:, :, None, None] * a).sum(1)
    cam = grad_cam.AblationCAM(model, [model.get_submodule(layer)], batch_size=4)
    np.testing.assert_allclose(cam(x, TARGETS), rendered([cams], x.shape[2:]), **CLOSE)


def test_ablation_cam_below_a_minimum_from_one_gradient() -> None:
    """Where only averages and linear maps follow, no channel is run."""
    model, x = setting()
    model.last = nn.Identity()
    a = dict(layer_values_of(model, "body", x))["body"]
    clean = model(x).detach().numpy()[range(3), CLASSES][:, None]
    scores = ablated_scores(model, "body", x, [float(each.min()) - 1e7 for each in a])
    cams = (((clean - scores) / clean)[:, :, None, None] * a).sum(1)
    found = grad_cam.AblationCAM(model, [model.body])(x, TARGETS)
    np.testing.assert_allclose(found, rendered([cams], x.shape[2:]), **CLOSE)
