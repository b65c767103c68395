"""Compiled explainers of whatever has one score for each example: dense outputs, objects, lists of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal import targets
from tests.explainers.networks import image, small


@dataclass
class Found:
    prediction_logits: Tensor


class Model(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.dense, self.make = small(), nn.Conv2d(3, 2, 3, padding=1), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.inner(x), self.dense(x).tanh())


def largest(objects: Any) -> Tensor:
    return objects["scores"].max()  # type: ignore[no-any-return]


MASK = torch.ones(8, 9)
CASES: dict[str, tuple[Callable[[Tensor, Tensor], Any], Any]] = {
    "a pixel": (lambda y, z: z, (1, 4, 4)),
    "a region": (lambda y, z: {"out": z}, targets.Segmentation(1, MASK)),
    "an object's logits": (lambda y, z: Found(y), [targets.Logit(1), targets.Logit(0), targets.Logit(2)]),
    "one score an example": (lambda y, z: y[:, 1], None),
    "lists of objects": (lambda y, z: [{"scores": each, "labels": each.argsort()} for each in y], [largest] * 3),
    "a tuple for each": (lambda y, z: z, [(0, 1, 1), (1, 2, 2), (0, 3, 3)]),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_plain_map(name: str) -> None:
    make, target = CASES[name]
    torch.manual_seed(0)
    model, x = Model(make).double().eval(), image().double()
    for kind in (fastsal.Saliency, fastsal.InputXGradient):
        compiled = fastsal.compile(kind(model), x, target)
        for each in (x, x.flip(-1)):
            torch.testing.assert_close(compiled(each).attribution, kind(model).attribute(each, target=target))
    windows: dict[str, Any] = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
    compiled = fastsal.compile(fastsal.Occlusion(model), x, target, **windows)
    torch.testing.assert_close(compiled(x).attribution, fastsal.Occlusion(model).attribute(x, target=target, **windows))
    with pytest.raises(ValueError, match="compile with a target that is one"):
        compiled(x, 1)


def test_what_has_no_one_score_is_refused() -> None:
    dense, x = Model(lambda y, z: z).eval(), image()
    with pytest.raises(ValueError, match=r"target: needed for an output of \(3, 2, 8, 9\)"):
        fastsal.compile(fastsal.Saliency(dense), x)
    with pytest.raises(ValueError, match=r"target: an index needs an output \[B, K\], this one is \(3, 2, 8, 9\)"):
        fastsal.compile(fastsal.Saliency(dense), x, 1)
    objects = Model(lambda y, z: [{"scores": each, "boxes": each[None]} for each in y]).eval()
    with pytest.raises(TypeError, match="target: needed, since its output is a list, not a tensor"):
        fastsal.compile(fastsal.Saliency(objects), x)


@pytest.mark.parametrize("kind", [fastsal.CAM, fastsal.AblationCAM])
@pytest.mark.parametrize("target", [None, 1, [0, 1, 2]])
def test_a_class_given_by_the_device_leaves_the_score_affine(kind: Any, target: Any) -> None:
    model, x = small().eval(), image()
    explainer = kind(model, "last")
    compiled = fastsal.compile(explainer, x, target)
    chosen = model(x).argmax(1) if target is None else target
    expected = explainer.attribute(x, target=chosen)
    for _ in range(2):
        found = compiled(x) if target is None else compiled(x, target)
        assert torch.equal(found.attribution, expected)


def test_integer_scores_by_the_device() -> None:
    x = image()
    occlusion = fastsal.Occlusion(lambda z: (100 * z.flatten(1)[:, :4]).long())
    windows: dict[str, Any] = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
    found = fastsal.compile(occlusion, x, 1, **windows)(x, [0, 1, 2]).attribution
    assert torch.equal(found, occlusion.attribute(x, target=[0, 1, 2], **windows))
