"""fastsal.compat.grad_cam leaves models as they were, also where these fail, and takes any of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastsal.compat import grad_cam
from fastsal.compat.grad_cam.utils.reshape_transforms import vit_reshape_transform
from tests.compat.grad_cam_formulas import ALL, CLOSE, NO_TARGET, TARGETS, layer_values, mean, rendered
from tests.explainers.networks import image, small, unchanged


def test_an_activation_in_place_changes_nothing() -> None:
    x = image(dtype=torch.float64)
    for name in ("GradCAM", "EigenCAM", "ScoreCAM", "AblationCAM", "FullGrad"):
        maps = []
        for in_place in (False, True):
            model = small(in_place=in_place, dtype=torch.float64)
            maps.append(getattr(grad_cam, name)(model, [model.norm])(x, TARGETS))
        np.testing.assert_allclose(maps[0], maps[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_the_model_stays_as_it_was(name: str) -> None:
    model, x = small(dropout=0.5).train(), image()
    model.norm.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with unchanged(model, x):
        cam = getattr(grad_cam, name)(model, [model.body])
    with unchanged(model, x), torch.no_grad():
        np.random.seed(0)
        found = cam(x, TARGETS)
    np.random.seed(0)
    np.testing.assert_allclose(found, getattr(grad_cam, name)(small(), ["body"])(x, TARGETS), rtol=1e-5, atol=1e-5)


def failing_target(_output: Tensor) -> Tensor:
    raise IndexError("the target's own error")


@pytest.mark.parametrize("name", [name for name in ALL if name not in NO_TARGET])
def test_an_index_error_is_not_swallowed(name: str) -> None:
    model, x = small().train(), image()

    def run() -> None:
        with getattr(grad_cam, name)(model, [model.body]) as cam:
            cam(x, [failing_target] * 3)

    with unchanged(model, x), pytest.raises(IndexError, match="the target's own error"):
        run()


@pytest.mark.parametrize("name", ALL)
def test_a_failing_model(name: str) -> None:
    model, x = small().train(), image()
    model.head.forward = failing_target
    cam = getattr(grad_cam, name)(model, [model.body])
    with unchanged(model, x), pytest.raises(IndexError, match="the target's own error"):
        cam(x, TARGETS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, x = small(), image()
    found = grad_cam.GradCAM(model.to(dtype), [model.body])(x.to(dtype), TARGETS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, grad_cam.GradCAM(small(), ["body"])(x, TARGETS), atol=0.1)


def test_tokens_with_and_without_a_transform() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 6, 4, stride=4)
            self.block = nn.Linear(6, 6)
            self.head = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch(x).flatten(2).mT
            tokens = self.block(torch.cat([tokens.mean(1, keepdim=True), tokens], 1)).tanh()
            return self.head(tokens.mean(1))

    torch.manual_seed(0)
    model, x = Tokens().double().eval(), image(size=16, dtype=torch.float64)[..., :16]
    ((a, g),) = layer_values(model, ["block"], x, TARGETS)
    a, g = (each[:, 1:].transpose(0, 2, 1).reshape(3, 6, 4, 4) for each in (a, g))
    expected = rendered([(mean(g) * a).sum(1)], (16, 16))
    for transform in (None, lambda t: vit_reshape_transform(t, 4, 4)):
        found = grad_cam.GradCAM(model, [model.block], reshape_transform=transform)(x, TARGETS)
        np.testing.assert_allclose(found, expected, **CLOSE)
    layer = grad_cam.AblationLayerVit()
    cam = grad_cam.AblationCAM(model, [model.block], lambda t: vit_reshape_transform(t, 4, 4), ablation_layer=layer)
    assert cam(x, TARGETS).shape == (3, 16, 16)
