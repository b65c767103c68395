"""Programs of targets that are no class: of dense outputs, objects and mappings, run without compiling them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.deploy._export import program_of
from fastsal.targets import Logit, Segmentation

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 11), reason="fastsal.export needs PyTorch 2.11")


@dataclass
class Found:
    prediction_logits: Tensor


class Dense(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.make = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 1)), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.body(x))


CASES: dict[str, tuple[Callable[[Tensor], Any], Any, int | None]] = {
    "a pixel": (lambda y: y, (1, 2, 3), 4),
    "a region": (lambda y: {"out": y}, Segmentation(1, torch.ones(6, 5)), None),
    "an object": (lambda y: Found(y.mean((2, 3))), Logit(1), None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_program_of_a_target(name: str) -> None:
    make, target, most = CASES[name]
    torch.manual_seed(0)
    model, x = Dense(make).double().eval(), torch.randn(2, 3, 6, 5, dtype=torch.float64)
    program, metadata = program_of(fastsal.Saliency(model), x, most, {}, target=target)
    assert metadata.outputs == 1
    score, found = program.module()(x, torch.full((2,), -1))
    torch.testing.assert_close(found, fastsal.Saliency(model).attribute(x, target))
    assert score.shape == (2, 1)
    assert score.isfinite().all()


@pytest.mark.parametrize("target", [None, (1, 2, 3)])
def test_one_program_for_every_batch_where_a_layer_is_read(target: Any) -> None:
    """No size of the batch that stands for all becomes a number on the way to a layer's positions."""
    torch.manual_seed(0)
    model = Dense((lambda y: y) if target else (lambda y: y.mean((2, 3)))).double().eval()
    explainer = fastsal.GradCAM(model, model.body[0])
    program, _ = program_of(explainer, torch.randn(2, 3, 6, 5, dtype=torch.float64), 4, {}, target=target)
    for rows in (1, 3, 4):
        x = torch.randn(rows, 3, 6, 5, dtype=torch.float64)
        _, found = program.module()(x, torch.ones(rows, dtype=torch.int64))
        torch.testing.assert_close(found, fastsal.GradCAM(model, model.body[0]).attribute(x, target or 1))


def test_what_cannot_be_is_refused() -> None:
    model, x = Dense(lambda y: y).eval(), torch.randn(2, 3, 6, 5)
    with pytest.raises(ValueError, match=r"target: needed for an output of \(1, 2, 6, 5\)"):
        program_of(fastsal.Saliency(model), x, None, {})
    with pytest.raises(TypeError, match="target: a package takes a class in each call"):
        program_of(fastsal.Saliency(model), x, None, {}, target=1)
    with pytest.raises(TypeError, match="target: a list goes by the example batch"):
        program_of(fastsal.Saliency(model), x, None, {}, target=[Logit(1), Logit(0)])
    objects = Dense(lambda y: [{"scores": each[each > 0]} for each in y]).eval()

    class Most(fastsal.targets.ExampleTarget):
        def __call__(self, output: Any) -> Tensor:
            scores: Tensor = output["scores"]
            return scores.max() if float(scores.max()) > 1 else scores.sum()

    with pytest.raises(ValueError, match="target: with it the model's course depends on values or on the batch: "):
        program_of(fastsal.Saliency(objects), x, None, {}, target=Most())
