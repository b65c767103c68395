"""Shapley values: closed forms, the orders that sampling draws, and chunks that cross them."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor

import fastsal
from fastsal.explainers.seeds import generator

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def interaction(z: Tensor) -> Tensor:
    """Values of the product of all elements, by symmetry a share of it each, plus 3 times the first."""
    return z.prod(1) + 3 * z[:, 0]


def test_a_product_is_shared_equally() -> None:
    x = torch.tensor([[2.0, 3.0, 0.5, -1.0, 4.0]], dtype=torch.float64)
    expected = x.prod() / 5 + torch.tensor([[6.0, 0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(fastsal.ShapleyValues(interaction).attribute(x), expected, **EXACT)
    # In one order all of the product goes to the last: p = 1/5, so a standard error of |prod| (0.16 / n)^0.5.
    n = 2000
    found = fastsal.ShapleyValueSampling(interaction).attribute(x, n_samples=n, seed=0)
    assert ((found - expected).abs() <= 5 * x.prod().abs() * (0.2 * 0.8 / n) ** 0.5).all()


def test_a_sum_is_exact_from_one_order() -> None:
    x, start = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    weight = torch.randn(3, 4, dtype=torch.float64)
    found = fastsal.ShapleyValueSampling(lambda z: (z * weight).sum((1, 2))).attribute(x, start, n_samples=1)
    torch.testing.assert_close(found, (x - start) * weight, **EXACT)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 13, 1000, None])
def test_chunks_cross_orders(size: int | None) -> None:
    """Against a plain walk along the orders that the seed gives."""
    x = torch.tensor([[0.5, -1.0, 2.0, 1.5, 0.7], [1.0, 2.0, -0.5, 0.3, -2.0]], dtype=torch.float64)

    def forward(z: Tensor) -> Tensor:
        return torch.stack([z.prod(1) + z[:, 0] * z[:, 3], z.tanh().cumprod(1).sum(1)], 1)

    expected, random = torch.zeros(2, 2, 5, dtype=torch.float64), generator(9)
    for _ in range(4):
        z = torch.full_like(x, 0.25)
        for feature in torch.randperm(5, generator=random).tolist():
            before = forward(z)
            z[:, feature] = x[:, feature]
            expected[:, :, feature] += (forward(z) - before) / 4
    found = fastsal.ShapleyValueSampling(forward).attribute(x, 0.25, n_samples=4, perturbations_per_eval=size, seed=9)
    torch.testing.assert_close(found, expected, **EXACT)


def test_memory_running_out_loses_no_order() -> None:
    x = torch.randn(1, 5, dtype=torch.float64)

    def little(z: Tensor) -> Tensor:
        if len(z) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return interaction(z)

    explainer = fastsal.ShapleyValueSampling(interaction)
    expected = explainer.attribute(x, n_samples=6, seed=2)
    found = fastsal.ShapleyValueSampling(little).attribute(x, n_samples=6, seed=2, perturbations_per_eval=16)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("players", range(1, 7))
def test_captums_walk_through_all_orders(players: int) -> None:
    x = torch.randn(2, players)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = attr.ShapleyValues(interaction).attribute(x, 0.5)
    found = fastsal.ShapleyValues(interaction).attribute(x, 0.5)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)  # Captum adds 720 float32 differences


@pytest.mark.parametrize("size", [1, 7, 64, None])
def test_the_formula_over_subsets(size: int | None) -> None:
    x = torch.randn(3, 6, dtype=torch.float64)

    def forward(z: Tensor) -> Tensor:
        return (z[:, :3] * z[:, 3:]).sum(1).sin() + z.prod(1)

    expected = torch.zeros_like(x)
    for player in range(6):
        others = [p for p in range(6) if p != player]
        for count in range(6):
            weight = math.factorial(count) * math.factorial(5 - count) / math.factorial(6)
            for chosen in itertools.combinations(others, count):
                kept = torch.zeros(6, dtype=torch.float64)
                kept[list(chosen)] = 1
                without = forward(x * kept)
                kept[player] = 1
                expected[:, player] += weight * (forward(x * kept) - without)
    found = fastsal.ShapleyValues(forward).attribute(x, perturbations_per_eval=size)
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(found.sum(1), forward(x) - forward(torch.zeros_like(x)), **EXACT)


@pytest.mark.parametrize("name", ["ShapleyValueSampling", "ShapleyValues"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_results_take_the_dtype_of_the_output(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]])
    found = getattr(fastsal, name)(lambda z: z.prod(1).to(dtype)).attribute(x)
    assert found.dtype == (dtype if dtype.is_floating_point else torch.float32)
    torch.testing.assert_close(found.sum(1).float(), torch.tensor([6.0]), rtol=1e-2, atol=0)


def test_numbers_and_functions_without_arguments() -> None:
    x = torch.randn(3, 4)
    for name in ("ShapleyValueSampling", "ShapleyValues"):
        number = getattr(fastsal, name)(lambda z: float(z.sum())).attribute(x)
        assert number.shape == (1, 4)
        assert number.dtype == torch.float64
        torch.testing.assert_close(number, x.sum(0, keepdim=True).double(), rtol=1e-5, atol=1e-6)
        assert not getattr(fastsal, name)(lambda: 3.0).attribute(x).any()
        assert not getattr(fastsal, name)(lambda: torch.ones(3, 2)).attribute(x, target=1).any()


def test_inputs_without_elements_have_no_features() -> None:
    for name in ("ShapleyValueSampling", "ShapleyValues"):
        found = getattr(fastsal, name)(lambda a, b: a.sum(1) * 2 + b.sum(1)).attribute(
            (torch.ones(3, 2), torch.zeros(3, 0))
        )
        assert torch.equal(found[0], torch.full((3, 2), 2.0))
        assert found[1].shape == (3, 0)
        assert getattr(fastsal, name)(lambda z: z.sum(1)).attribute(torch.zeros(3, 0)).shape == (3, 0)
        deep = torch.ones(3, 2), torch.zeros(3, 4, 0)
        found = getattr(fastsal, name)(lambda a, b: a.sum(1) * 2 + b.sum((1, 2))).attribute(deep)
        assert torch.equal(found[0], torch.full((3, 2), 2.0))
        assert found[1].shape == (3, 4, 0)


def test_many_features_warn_the_caller_before_they_are_scored() -> None:
    class Enough(Exception):
        pass

    def stop(z: Tensor) -> Tensor:
        if z.any():
            raise Enough
        return z.sum(1)

    with pytest.warns(UserWarning, match="17 features take 131072 forward passes") as seen, pytest.raises(Enough):
        fastsal.ShapleyValues(stop).attribute(torch.ones(1, 17))
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastsal.ShapleyValues(lambda z: z.sum(1)).attribute(torch.ones(1, 10))


@pytest.mark.parametrize("value", [0, -3, 2.5, None, "4"])
def test_numbers_of_samples(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="n_samples"):
        fastsal.ShapleyValueSampling(interaction).attribute(torch.ones(1, 3), n_samples=value)
