"""Classifiers with one logit for each example, [B, 1] or [B]: every method explains that number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastsal
from fastsal.compat.grad_cam import GradCAM
from fastsal.compat.grad_cam.utils.model_targets import BinaryClassifierOutputTarget
from fastsal.explainers.registry import find
from tests.explainers.networks import image

# What needs classes, attention, or examples to exchange features with, or is all 0 for so small a change.
ELSEWHERE = {"finer-cam", "lime", *(name for name in fastsal.methods() if find(name).reads == "attention")}


def binary(squeezed: bool) -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1), *([nn.Flatten(0)] if squeezed else [])]
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head).eval()


ALONE = ["ablation-cam", "feature-permutation", "grad-cam", "integrated-gradients", "occlusion", "rise"]


@pytest.mark.parametrize(
    ("name", "batch"), [*((name, 2) for name in sorted(set(fastsal.methods()) - ELSEWHERE)), *((n, 1) for n in ALONE)]
)
def test_both_forms_have_the_same_map(name: str, batch: int) -> None:
    if name == "feature-permutation" and batch == 1:
        with pytest.raises(ValueError, match="inputs: 1 example for feature-permutation, which needs at least 2"):
            fastsal.explain(binary(False), image(batch=1), name)
        return
    maps = []
    for squeezed in (False, True):
        torch.manual_seed(0)
        found = fastsal.explain(binary(squeezed), image(batch=batch), name)
        maps.append(found.map)
    assert maps[0].any()
    torch.testing.assert_close(maps[0], maps[1])


@pytest.mark.parametrize("squeezed", [False, True])
def test_the_gradient_is_the_logits(squeezed: bool) -> None:
    model, x = binary(squeezed), image()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf).sum(), leaf)
    torch.testing.assert_close(fastsal.explain(model, x, "saliency").map, expected.abs())
    assert fastsal.explain(model, x, "saliency").output.shape == ((3,) if squeezed else (3, 1))


@pytest.mark.parametrize("squeezed", [False, True])
def test_both_answers_in_pytorch_grad_cams_form(squeezed: bool) -> None:
    model, x = binary(squeezed), image()
    yes, no = (GradCAM(model, [model[0]])(x, [BinaryClassifierOutputTarget(k)] * 3) for k in (1, 0))
    assert (yes != no).any()
    for found, sign in ((yes, 1), (no, -1)):
        expected = fastsal.GradCAM(model, "0").attribute(
            x, target=[lambda score, sign=sign: sign * score.reshape(())] * 3, upsample=False, normalize=False
        )
        assert ((expected[:, 0] > 0).flatten(1).any(1).numpy() == (found.reshape(3, -1).max(1) > 0)).all()
