"""The two means of a softmax's ends, against an integral, and attention's rule where a query may see no key."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from fastsal.explainers.gradient.multipliers.softmax import means

APART = [0.0, 1e-30, 1e-12, 1e-7, 1e-4, 1e-2, 0.3, 1.0, 7.0, 30.0, 80.0]


def integral(first: float, second: float) -> float:
    """The logarithmic mean of exp(first) and exp(second) is that of all exp(t first + (1 - t) second)."""
    points, weights = np.polynomial.legendre.leggauss(200)
    t = (points + 1) / 2
    return float((weights / 2 * np.exp(t * first + (1 - t) * second)).sum())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_means_are_those_of_the_exponentials(dtype: torch.dtype, tolerance: float) -> None:
    first = torch.tensor([-0.7] * len(APART), dtype=dtype)
    second = first - torch.tensor(APART, dtype=dtype)
    for a, b in ((first, second), (second, first)):
        arithmetic, logarithmic = means(a, b)
        pairs = list(zip(a.tolist(), b.tolist(), strict=True))
        expected = torch.tensor([integral(x, y) for x, y in pairs], dtype=torch.float64)
        halves = torch.tensor([(math.exp(x) + math.exp(y)) / 2 for x, y in pairs], dtype=torch.float64)
        torch.testing.assert_close(logarithmic.double(), expected, rtol=tolerance, atol=0)
        torch.testing.assert_close(arithmetic.double(), halves, rtol=tolerance, atol=0)


def test_means_of_nothing_are_zero() -> None:
    none = -torch.inf
    first, second = torch.tensor([none, none, -1.0, torch.nan]), torch.tensor([none, -2.0, none, none])
    arithmetic, logarithmic = means(first, second)
    assert logarithmic.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(arithmetic, torch.tensor([0, math.exp(-2) / 2, math.exp(-1) / 2, 0]))


class Masked(nn.Module):
    """Attention in which one query is allowed no key, by what PyTorch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.of = nn.Linear(6, 18)
        allowed = torch.ones(5, 5, dtype=torch.bool).tril()
        allowed[2] = False
        self.register_buffer("allowed", allowed)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.of(x).chunk(3, -1)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=self.get_buffer("allowed"))
        return found.nan_to_num(0.0).flatten(1).tanh()


def test_a_query_that_sees_no_key_adds_up() -> None:
    torch.manual_seed(0)
    model, x = Masked().double(), torch.randn(2, 5, 6).double()
    maps, delta = fastsal.DeepLift(model).attribute(x, target=25, return_convergence_delta=True)
    assert bool(maps.isfinite().all())
    assert float(delta.abs().max()) < 1e-12
    assert float(maps[:, 4].abs().max()) > 0
