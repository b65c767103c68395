"""Rows that depend on each other only where there are many, as in a mixture of experts that each take so many."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import small


class Experts(nn.Module):
    """Each expert takes the first so many tokens of a batch that are routed to it; the others go past it."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.router = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 4)
        self.experts, self.head = nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), nn.Linear(8, 5)
        self.capacity, self.batches = capacity, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        tokens = self.patches(x).flatten(2).mT
        flat = tokens.reshape(-1, 8)
        chosen, out = self.router(flat).argmax(1), flat
        for number, expert in enumerate(self.experts):
            taken = (chosen == number) & ((chosen == number).cumsum(0) <= self.capacity)
            out = out + taken[:, None] * 3 * expert(flat).tanh()
        scores: Tensor = self.head(out.view(tokens.shape).mean(1))
        return scores


METHODS: dict[str, tuple[Callable[[Any], Any], str, dict[str, Any]]] = {
    "RISE": (fastsal.RISE, "perturbations_per_eval", {"n_masks": 60}),
    "Occlusion": (fastsal.Occlusion, "perturbations_per_eval", {"sliding_window_shapes": (3, 3, 3)}),
    "KernelShap": (fastsal.KernelShap, "perturbations_per_eval", {"n_samples": 40, "seed": 0}),
    "IntegratedGradients": (fastsal.IntegratedGradients, "internal_batch_size", {"n_steps": 40}),
    "GradientShap": (
        fastsal.GradientShap,
        "perturbations_per_eval",
        {"n_samples": 40, "seed": 0, "baselines": torch.zeros(1, 3, 16, 16)},
    ),
    "ScoreCAM": (lambda m: fastsal.ScoreCAM(m, "patches"), "perturbations_per_eval", {}),
}


def image() -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS)
def test_a_mixture_of_experts_of_some_capacity_is_run_one_copy_at_a_time(method: str) -> None:
    make, named, options = METHODS[method]
    model, x = Experts(48).eval(), image()
    if method == "KernelShap":
        options = {**options, "feature_mask": torch.arange(256).view(1, 1, 16, 16) // 16}
    rows = 8 if method == "ScoreCAM" else 30
    with pytest.warns(UserWarning, match="the last of .* copies differs from the same alone by .* one at a time"):
        found = make(model).attribute(x, target=1, **{**options, named: rows})
    expected = make(model).attribute(x, target=1, **{**options, named: 1})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_it_is_remembered_and_costs_a_copy_once() -> None:
    model, x = Experts(10**6).eval(), image()
    explainer = fastsal.RISE(model)

    def batches(count: int) -> list[int]:
        model.batches.clear()
        explainer.attribute(x, 1, n_masks=40, perturbations_per_eval=count)
        return list(model.batches)

    first, again = batches(10), batches(10)
    assert again == [10, 10, 10, 10]
    assert first[-5:] == [10, 1, 10, 10, 10]
    assert batches(5) == 8 * [5]
    assert batches(20) == [20, 1, 20]
    model.capacity = 48
    with pytest.warns(UserWarning, match="one at a time"):
        assert batches(20)[-40:] == 40 * [1]


def test_rows_that_are_apart_stay_so_to_the_bit() -> None:
    model, x = small(), torch.randn(2, 3, 8, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = fastsal.RISE(model).attribute(x, 1, n_masks=40, perturbations_per_eval=20)
        assert torch.equal(first, fastsal.RISE(model).attribute(x, 1, n_masks=40, perturbations_per_eval=20))
