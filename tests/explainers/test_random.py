"""Random methods: where they draw from when no seed is given, and what a seed leaves alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsal.metrics import sensitivity_max
from tests.explainers.calls import CALLS, RANDOM
from tests.explainers.networks import image, small


def states() -> tuple[list[int], list[int], object]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.parametrize("name", RANDOM)
def test_torchs_generator_draws_the_seed(name: str) -> None:
    model, x = small(), image()

    def explain() -> Tensor:
        return CALLS[name](model, x, seed=None)

    torch.manual_seed(1)
    numpy_state, python_state = states()[1:]
    first, second = explain(), explain()
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(explain(), first)
    assert torch.equal(explain(), second)
    assert states()[1:] == (numpy_state, python_state)


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_touches_no_global_generator(name: str) -> None:
    model, x = small(), image()
    before = states()
    assert torch.equal(CALLS[name](model, x, seed=3), CALLS[name](model, x, seed=3))
    assert states() == before


def test_the_noise_of_sensitivity_max() -> None:
    model, x = small(), image()
    explain = lambda rows: CALLS["saliency"](model, rows)  # noqa: E731
    torch.manual_seed(1)
    first, second = (sensitivity_max(explain, x, n_perturb_samples=2) for _ in range(2))
    torch.manual_seed(1)
    assert not torch.equal(first, second)
    assert torch.equal(sensitivity_max(explain, x, n_perturb_samples=2), first)
