"""RISE against the definition, its seeds, its outputs, and its independence of the batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastsal
from fastsal.ops import masks
from tests.explainers.networks import image, small


def by_definition(model: Any, x: Tensor, count: int, **options: Any) -> Tensor:
    """sum_n F(x * m_n) m_n / (N p), [B, K, *spatial], with masks read off an input of ones."""
    found = masks.batch(torch.ones(1, 1, *x.shape[2:], dtype=torch.float64), 0, count, **options)
    with torch.no_grad():
        total = sum(model((x * mask).to(x.dtype)).double()[:, :, None] * mask.reshape(1, 1, -1) for mask in found)
    return (total / (count * options.get("probability", 0.5))).unflatten(2, x.shape[2:])


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("border", ["reflect", "clamp"])
def test_definition(dimensions: int, border: Any) -> None:
    model, x = small(dimensions, dtype=torch.float64), image(dimensions, batch=2, dtype=torch.float64)
    options: dict[str, Any] = {"grid_size": 3, "probability": 0.4, "border": border, "seed": 11}
    expected = by_definition(model, x, 40, **options)
    options |= {"design": "independent", "estimator": "plain"}
    found = fastsal.RISE(model).attribute(x, n_masks=40, **options)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    one = fastsal.RISE(model).attribute(x, target=[2, 0], n_masks=40, **options)
    torch.testing.assert_close(one, torch.stack([expected[0, 2:3], expected[1, 0:1]]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_bits_at_every_batch_size(dtype: torch.dtype) -> None:
    """Scores that are sums of a row's exact products do not depend on the batch; then no bit of the map may."""
    x = torch.randint(-4, 5, (2, 3, 12, 10)).to(dtype)

    def model(batch: Tensor) -> Tensor:
        return torch.stack([(row * 16).round().sum() for row in batch.double()]).to(dtype)

    found = [
        fastsal.RISE(model).attribute(x, n_masks=37, grid_size=4, seed=3, perturbations_per_eval=count)
        for count in (None, 1, 2, 5, 36, 37, 1000)
    ]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_seeds() -> None:
    model, x = small(), image()
    run = fastsal.RISE(model)
    same = [run.attribute(x, target=1, n_masks=16, seed=4) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], run.attribute(x, target=1, n_masks=16, seed=5))
    assert torch.equal(run.attribute(x, target=1, n_masks=16), run.attribute(x, target=1, n_masks=16, seed=0))


def test_baseline_and_additional_arguments() -> None:
    x = image()

    def model(batch: Tensor, gain: Tensor, offset: float) -> Tensor:
        return (batch.flatten(1).sum(1) * gain + offset)[:, None]

    gain = torch.rand(3)
    found = fastsal.RISE(model).attribute(x, baselines=x, additional_forward_args=(gain, 2.0), n_masks=20)
    # With the input as its own baseline every score is that of the input: the map is a multiple of the mean mask.
    mean = fastsal.RISE(lambda batch: batch.new_ones(len(batch))).attribute(x, n_masks=20)
    scores = model(x, gain, 2.0).view(3, 1, 1, 1)
    torch.testing.assert_close(found, mean * scores, rtol=1e-4, atol=1e-5)


def test_all_outputs_at_once_are_the_single_ones() -> None:
    model, x = small(), image()
    whole = fastsal.RISE(model).attribute(x, n_masks=24)
    assert whole.shape == (3, 4, 8, 9)
    for target in range(4):
        single = fastsal.RISE(model).attribute(x, target=target, n_masks=24)
        torch.testing.assert_close(whole[:, target : target + 1], single)


def test_it_points_at_what_the_score_reads() -> None:
    x = torch.ones(1, 1, 24, 24)
    found = fastsal.RISE(lambda batch: batch[:, 0, 4:8, 15:19].mean((1, 2))).attribute(x, n_masks=600)
    place = divmod(int(found.flatten().argmax()), 24)
    assert 2 <= place[0] <= 9
    assert 13 <= place[1] <= 20
