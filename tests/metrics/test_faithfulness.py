"""Deletion and insertion against a plain loop in the way of RISE's authors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastsal import metrics
from fastsal.metrics._blur import _kernel, blurred


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_loop(model: nn.Module, image: Tensor, start: Tensor, end: Tensor, ranked: Tensor, step: int, target: int) -> Any:
    """One image: exchange ``step`` elements at a time; scores and the authors' area."""
    order = np.argsort(-ranked.flatten().numpy(), kind="stable")
    current, scores = start.clone(), []
    total = -(-len(order) // step)
    for index in range(total + 1):
        scores.append(float(model.eval()(current[None]).softmax(1)[0, target]))
        places = order[index * step : (index + 1) * step]
        current.flatten(1)[:, places] = end.flatten(1)[:, places]
    scores = np.array(scores)
    return scores, (scores.sum() - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)


@pytest.mark.parametrize("way", ["deletion", "insertion"])
@pytest.mark.parametrize("target", [None, 2, [0, 1, 4]], ids=str)
def test_is_the_authors_loop(way: str, target: Any) -> None:
    model, x = network().train(), images()
    maps = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2)).round(decimals=1)  # with ties
    base = torch.zeros_like(x) if way == "deletion" else blurred(x)
    got = getattr(metrics, way)(model, x, maps, target, step=8)
    assert all(part.training for part in model.modules())
    with torch.no_grad():
        classes = model.eval()(x).argmax(1).tolist() if target is None else torch.tensor(target).expand(3).tolist()
        for row in range(3):
            start, end = (x, base) if way == "deletion" else (base, x)
            scores, area = by_loop(model, x[row], start[row], end[row], maps[row], 8, classes[row])
            np.testing.assert_allclose(got.scores[row], scores, rtol=0, atol=1e-12)
            assert abs(float(got.area[row]) - area) < 1e-12
    assert got.fractions.tolist() == [index / 8 for index in range(9)]


def test_the_last_step_may_be_smaller() -> None:
    model, x = network(), images(1)
    got = metrics.deletion(model, x, x, 1, step=30)
    assert got.fractions.tolist() == [0, 30 / 64, 60 / 64, 1]
    area = sum(
        (a + b) / 2 * w for a, b, w in zip(got.scores[0], got.scores[0][1:], [30 / 64, 30 / 64, 4 / 64], strict=False)
    )
    assert abs(float(got.area[0]) - float(area)) < 1e-12


def test_several_maps_at_once_are_each_alone() -> None:
    model, x = network(), images()
    maps = {"first": torch.randn(3, 1, 8, 8), "second": torch.randn(3, 3, 8, 8)}
    together = metrics.insertion(model, x, maps, step=5, baselines=0.3)
    for name, each in maps.items():
        alone = metrics.insertion(model, x, each, step=5, baselines=0.3)
        torch.testing.assert_close(together[name].scores, alone.scores, rtol=0, atol=1e-12)
    for row in range(3):
        one = metrics.insertion(model, x[row : row + 1], maps["first"][row : row + 1], step=5, baselines=0.3)
        torch.testing.assert_close(one.scores[0], together["first"].scores[row], rtol=0, atol=1e-12)


def test_arguments_follow_their_examples() -> None:
    x, shift = images(), torch.randn(3, 5, dtype=torch.float64)
    model = network()

    def forward(rows: Tensor, per_example: Tensor) -> Tensor:
        return model(rows) + per_example

    together = metrics.deletion(forward, x, x, 2, step=9, additional_forward_args=shift)
    for row in range(3):
        part = slice(row, row + 1)
        alone = metrics.deletion(forward, x[part], x[part], 2, step=9, additional_forward_args=shift[part])
        torch.testing.assert_close(alone.scores[0], together.scores[row], rtol=0, atol=1e-12)


def test_a_map_of_the_truth_is_better_than_its_opposite() -> None:
    """A linear model: its own contributions, in order, take the score down fastest."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    contributions = x[:, 0] * (model[1].weight[0] - model[1].weight[1]).view(8, 8)
    right, wrong = metrics.deletion(model, x, {"right": contributions, "wrong": -contributions}, 0, step=1).values()
    assert (right.area < wrong.area).all()
    assert (right.scores[:, 1:-1] < wrong.scores[:, 1:-1]).all()


def test_the_blur_is_nearly_a_box() -> None:
    """Against the kernel of the authors' code: 0.0880 at its ends and 0.0940 in its middle; sums to one."""
    kernel = _kernel()
    assert abs(float(kernel.sum()) - 1) < 1e-12
    assert [round(float(kernel[at]), 4) for at in (0, 5, 10)] == [0.0880, 0.0940, 0.0880]
    image = torch.randn(1, 2, 20, 17, dtype=torch.float64)
    weight = torch.outer(kernel, kernel).expand(2, 1, 11, 11)
    expected = torch.nn.functional.conv2d(image, weight, padding=5, groups=2)
    torch.testing.assert_close(blurred(image), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": images()[0, 0]}, "inputs: "),
        ({"inputs": images()[:0]}, "inputs: "),
        ({"attributions": "maps"}, "attributions: str is not a tensor"),
        ({"attributions": torch.zeros(3, 7, 8)}, "attributions: shape"),
        ({"attributions": {"a": torch.full((3, 8, 8), float("nan"))}}, r"attributions\['a'\]: has values that are not"),
        ({"attributions": {}}, "attributions: the mapping is empty"),
        ({"target": 5}, "target: 5 is out of range for 5 classes"),
        ({"target": [1, 2]}, "target: "),
        ({"baselines": "noise"}, "baselines: 'noise'"),
        ({"step": 0}, "step: 0 is below 1"),
        ({"forward_func": lambda x: x}, "forward_func: its output"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    given = {"forward_func": network(), "inputs": images(), "attributions": torch.zeros(3, 8, 8), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        metrics.deletion(**given)


@pytest.mark.parametrize("squeezed", [False, True], ids=["[B, 1]", "[B]"])
@pytest.mark.parametrize("target", [None, 0], ids=str)
def test_the_only_logit_of_a_binary_classifier(squeezed: bool, target: Any) -> None:
    """Its sigmoid: the softmax of one number is 1, whatever is deleted."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 1)]
    plain, x = nn.Sequential(*layers).double(), images(2)
    model = nn.Sequential(*layers, nn.Flatten(0)) if squeezed else plain
    both = nn.Sequential(plain, _AgainstZero())
    for way in (metrics.deletion, metrics.insertion):
        got = way(model, x, x.abs(), target, step=8)
        expected = way(both, x, x.abs(), 1, step=8)
        torch.testing.assert_close(got.scores, expected.scores)
        assert got.scores.std() > 1e-3


class _AgainstZero(nn.Module):
    """Two logits whose softmax is the sigmoid of the one."""

    def forward(self, score: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(score), score], 1)
