"""Gradient SHAP's and DeepLIFT SHAP's samples: spread evenly, each as it was, with errors that are honest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastsal
from fastsal.explainers.gradient.distribution import Draws, positions


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def curved() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).double().eval()


def inputs(rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, 6, dtype=torch.float64, generator=generator(seed))


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_positions_are_one_in_each_part(groups: int) -> None:
    found = positions(16 * groups, 4, generator(), groups)
    assert found.shape == (16 * groups, 4)
    assert (found >= 0).all()
    assert (found < 1).all()
    for group in range(groups):
        ordered = found[group::groups].sort(0).values
        torch.testing.assert_close(ordered.diff(dim=0), torch.full((15, 4), 1 / 16, dtype=torch.float64))
    # The groups' first ones too.
    parts = (found[:groups] * groups).floor().sort(0).values
    assert torch.equal(parts, torch.arange(groups).double()[:, None].expand(groups, 4))


def test_a_single_sample_is_uniform() -> None:
    places = torch.stack([positions(5, 3, generator(seed), 5)[3] for seed in range(600)]).flatten().sort().values
    expected = (torch.arange(1800).double() + 0.5) / 1800
    assert (places - expected).abs().max() < 1.63 / 1800**0.5  # Kolmogorov's 1 % point
    rows = torch.stack([Draws((torch.zeros(7, 2),), 5, 3, generator(seed), 5).rows[0][3] for seed in range(600)])
    counts = rows.flatten().bincount(minlength=7)
    assert float(((counts - 1800 / 7) ** 2 / (1800 / 7)).sum()) < 16.8  # chi-squared's 1 % point of 6 degrees


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 20])
def test_rows_are_met_equally_often(count: int, groups: int) -> None:
    rows = Draws((torch.zeros(count, 2),), 6 * groups * count, 3, generator(), groups).rows[0]
    for each in (*range(1, count), *range(count, 6 * count, count)):
        counts = torch.stack([rows[: each * groups, example].bincount(minlength=count) for example in range(3)])
        assert int(counts.max() - counts.min()) <= (each % count > 0), each
    for group in range(groups):
        for round in rows[group::groups].split(count):
            assert torch.equal(round.sort(0).values, torch.arange(count)[:, None].expand(count, 3))


@pytest.mark.parametrize("count", [2, 4, 5, 8, 16])
def test_no_row_has_a_part_of_the_path_alone(count: int) -> None:
    for groups in (1, 8):
        samples = 64 * groups * count
        rows = Draws((torch.zeros(count, 2),), samples, 1, generator(), groups).rows[0][:, 0]
        places = positions(samples, 1, generator(), groups)[:, 0]
        low = torch.stack([(places[rows == row] < 0.5).double().mean() for row in range(count)])
        assert ((low >= 0.25) & (low <= 0.75)).all()  # 4 standard deviations of 64 draws


def test_fewer_samples_for_the_same_error() -> None:
    """Beside draws that are independent, at 32 samples: no more than a third of their variance."""
    model, x, rows = curved(), inputs(2), inputs(5, 2) / 2
    truth = fastsal.GradientShap(model).attribute(x, rows, n_samples=8000, target=1, seed=99)

    def independent(seed: int) -> Tensor:
        random = generator(seed)
        start = rows[torch.randint(5, (32, 2), generator=random)]
        share = torch.rand(32, 2, 1, dtype=torch.float64, generator=random)
        points = (start + share * (x - start)).requires_grad_()
        (gradients,) = torch.autograd.grad(model(points.flatten(0, 1))[:, 1].sum(), points)
        return ((x - start) * gradients).mean(0)

    def error(found: list[Tensor]) -> float:
        return float(torch.stack([(each - truth).square().mean() for each in found]).mean())

    ours = [fastsal.GradientShap(model).attribute(x, rows, n_samples=32, target=1, seed=seed) for seed in range(40)]
    assert error(ours) < error([independent(seed) for seed in range(40)]) / 3


@pytest.mark.parametrize("rows", [1, 5, 200])
@pytest.mark.parametrize("samples", [16, 64, 100])
def test_errors_are_not_too_small(rows: int, samples: int) -> None:
    """Over seeds, the mean squared error is at most what the standard errors say, and a quarter for chance."""
    model, x, baselines = curved(), inputs(2), inputs(rows, 2)
    truth = fastsal.GradientShap(model).attribute(x, baselines, n_samples=8000, target=1, seed=99)
    apart, told = [], []
    for seed in range(40):
        found = fastsal.GradientShap(model).estimate(x, baselines, n_samples=samples, target=1, seed=seed)
        assert found.samples == samples
        apart.append((found.attribution - truth).square().mean())
        told.append(found.error.square().mean())
    assert float(torch.stack(apart).mean()) < 1.25 * float(torch.stack(told).mean())


def test_too_few_samples_tell_no_error() -> None:
    found = fastsal.GradientShap(curved()).estimate(inputs(2), inputs(3), n_samples=3, target=0, seed=0)
    assert found.error.isinf().all()
    assert found.relative_error == float("inf")


def test_baselines_of_deep_lift_shap() -> None:
    """An estimate of all of them is exact; of a part, as near as it says."""
    model, x, rows = curved(), inputs(2), inputs(300, 2)
    explainer = fastsal.DeepLiftShap(model)
    exact = explainer.attribute(x, rows, target=1)
    every = list(explainer.improve(x, rows, target=1, perturbations_per_eval=20))
    assert [each.samples for each in every] == list(range(20, 301, 20))
    torch.testing.assert_close(every[-1].attribution, exact, rtol=1e-10, atol=1e-12)
    assert not every[-1].error.any()
    ratios = [float(((each.attribution - exact) / each.error).square().mean()) for each in every[:-1]]
    assert 0.2 < sum(ratios) / len(ratios) < 3
    found = explainer.estimate(x, rows, target=1, tolerance=0.2, perturbations_per_eval=10)
    assert 10 <= found.samples < 300
    assert found.relative_error <= 0.2
    one = explainer.estimate(x, rows[:1], target=1)
    torch.testing.assert_close(one.attribution, explainer.attribute(x, rows[:1], target=1))
    assert not one.error.any()


def test_an_estimate_at_a_layer() -> None:
    model, x, rows = curved(), inputs(2), inputs(30, 2)
    explainer = fastsal.LayerDeepLiftShap(model, "1")
    found = explainer.estimate(x, rows, target=1)
    torch.testing.assert_close(found.attribution, explainer.attribute(x, rows, target=1), rtol=1e-10, atol=1e-12)
    assert found.error.shape == found.attribution.shape


@pytest.mark.parametrize("name", ["GradientShap", "DeepLiftShap"])
def test_what_goes_without(name: str) -> None:
    explainer = getattr(fastsal, name)(curved())
    with pytest.raises(ValueError, match="tolerance, deadline: they go without return_convergence_delta"):
        explainer.estimate(inputs(2), inputs(3), target=0, return_convergence_delta=True)
