"""Sensitivity and DeepLift's pairs where the rows of a batch depend on each other: as one at a time."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.metrics import sensitivity_max
from tests.explainers.networks import small


class Coupled(nn.Module):
    """Scaled by the largest value of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x / x.abs().max())))


def explained(explainer: fastsal.Saliency, way: str) -> Any:
    """``attribute`` as people pass it on."""
    if way == "method":
        return explainer.attribute
    if way == "partial":
        return functools.partial(explainer.attribute, target=1)
    return lambda inputs, target: explainer.attribute(inputs, target)


@pytest.mark.parametrize("way", ["method", "partial", "function"])
def test_altered_copies_are_explained_one_at_a_time(way: str) -> None:
    torch.manual_seed(0)
    explainer = fastsal.Saliency(Coupled().double().eval())
    x = torch.randn(1, 5, dtype=torch.float64)
    function, options = explained(explainer, way), {} if way == "partial" else {"target": 1}
    alone = sensitivity_max(
        explained(explainer, "method"), x, perturb_radius=0.3, seed=0, max_examples_per_batch=1, target=1
    )
    with pytest.warns(UserWarning, match="rows of a batch depend on each other.*one at a time"):
        found = sensitivity_max(function, x, perturb_radius=0.3, seed=0, **options)
    torch.testing.assert_close(found, alone)


def test_independent_rows_stay_in_batches() -> None:
    rows: list[int] = []
    model = small()
    model.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    sensitivity_max(fastsal.Saliency(model).attribute, torch.rand(2, 3, 8, 8), n_perturb_samples=4, seed=0, target=1)
    assert max(rows) == 8


@pytest.mark.parametrize("method", ["DeepLiftShap", "LayerDeepLiftShap"])
def test_pairs_of_inputs_and_baselines_too(method: str) -> None:
    torch.manual_seed(0)
    model = Coupled().double().eval()
    x, baselines = torch.randn(1, 5, dtype=torch.float64), 3 * torch.randn(4, 5, dtype=torch.float64)
    layer = () if method == "DeepLiftShap" else ("first",)
    with pytest.warns(UserWarning, match="one at a time"):
        found = getattr(fastsal, method)(model, *layer).attribute(x, baselines, target=1)
    each = [
        getattr(fastsal, method.removesuffix("Shap"))(model, *layer).attribute(x, row[None], target=1)
        for row in baselines
    ]
    torch.testing.assert_close(found, torch.stack(each).mean(0))
