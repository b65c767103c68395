"""Every method's maximum lies on the digit far more often than chance would have it."""

from __future__ import annotations

import pytest
import torch

from fastsal import explainers, models
from fastsal.explainers.registry import find
from fastsal.models.demo_net import DemoNet
from tools import pointing

CANVASES = 24
MODEST = {
    "rise": {"n_masks": 400},
    "integrated-gradients": {"n_steps": 16},
    "shapley-value-sampling": {"n_samples": 2},
}


@pytest.fixture(scope="module")
def canvases() -> models.Canvases:
    return models.demo_canvases(CANVASES)


APART = {
    "random-cam": "noise",
    "ss-cam": "mostly noise",
    "feature-permutation": "compares canvases with one another",
    "cam": "of networks with one linear layer behind the pooling",
    "shapley-values": "of nine segments, each as large as a digit",
}
OTHERS = [name for name in explainers.methods() if find(name).shape == "layer" or find(name).reads == "attention"]
METHODS = [name for name in explainers.methods() if name not in APART and name not in OTHERS]


@pytest.mark.parametrize(
    "method",
    # A sweep over two dozen canvases takes seconds.
    [pytest.param(name, marks=pytest.mark.long if find(name).per_call else ()) for name in METHODS],
)
def test_the_maximum_lies_on_the_digit(method: str, canvases: models.Canvases) -> None:
    """Chance is the boxes' share of the canvas, about 8 %; half of the maps would hit by luck once in 10^6 runs."""
    found, _ = pointing.maps(models.demo(), canvases, method, **MODEST.get(method, {}))
    boxes = canvases.box_masks()
    assert pointing.hit_rate(found, boxes) > 0.5


def test_an_untrained_model_does_not_point_at_the_digit(canvases: models.Canvases) -> None:
    """The check of the check: without training the maps know nothing of digits."""
    torch.manual_seed(3)
    found, _ = pointing.maps(DemoNet().eval(), canvases, "gradcam")
    assert pointing.hit_rate(found, canvases.box_masks()) < 0.5


def test_hit_rate() -> None:
    found = torch.zeros(2, 3, 3)
    found[0, 1, 2] = found[1, 0, 0] = 1
    objects = torch.zeros(2, 3, 3, dtype=torch.bool)
    objects[:, 1, 2] = True
    assert pointing.hit_rate(found, objects) == 0.5
