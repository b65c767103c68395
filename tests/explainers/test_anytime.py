"""Tolerances, deadlines and improving maps: where they stop, that their errors are honest, and that nothing stays."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import image, small

MASK = torch.arange(12).view(1, 1, 3, 4).repeat_interleave(3, 2).repeat_interleave(3, 3)


def smooth() -> nn.Module:
    """Two outputs that are smooth in the input."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(9 * 12, 8), nn.Tanh(), nn.Linear(8, 2)).double().eval()


def pixels(batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


CASES: dict[str, tuple[Callable[[Any], Any], dict[str, Any], str]] = {
    "rise": (fastsal.RISE, {"n_masks": 512, "grid_size": 3}, "n_masks"),
    "rise-published": (
        fastsal.RISE,
        {"n_masks": 512, "grid_size": 3, "design": "independent", "estimator": "plain"},
        "n_masks",
    ),
    "smoothgrad": (fastsal.SmoothGrad, {"n_samples": 512, "abs": False}, "n_samples"),
    "noise-tunnel": (
        lambda m: fastsal.NoiseTunnel(fastsal.InputXGradient(m)),
        {"nt_samples": 512, "stdevs": 0.3},
        "nt_samples",
    ),
    "kernelshap": (fastsal.KernelShap, {"n_samples": 512, "feature_mask": MASK}, "n_samples"),
    "shapley": (fastsal.ShapleyValueSampling, {"n_samples": 64, "feature_mask": MASK}, "n_samples"),
    "gradient-shap": (
        fastsal.GradientShap,
        {"n_samples": 512, "stdevs": 0.3, "baselines": pixels(5).flip(0) / 2},
        "n_samples",
    ),
}
GRADIENTS = ("smoothgrad", "noise-tunnel", "gradient-shap")


def explain(name: str, model: nn.Module | None = None, seed: int = 0, **options: Any) -> Any:
    make, given, _ = CASES[name]
    explainer = make(model or smooth())
    run = explainer.estimate if {"tolerance", "deadline"} & set(options) else explainer.attribute
    return run(pixels(), target=1, seed=seed, **{**given, **options})


def with_count(name: str, count: int) -> dict[str, int]:
    return {CASES[name][2]: count}


@pytest.mark.parametrize("name", CASES)
def test_a_tolerance_that_cannot_be_met_gives_all_samples(name: str) -> None:
    """The map is that of the plain call (of RISE's default: of replicates, another draw), with a warning."""
    with pytest.warns(UserWarning, match="tolerance: 1e-09 is not reached with"):
        found = explain(name, tolerance=1e-9)
    assert found.samples == CASES[name][1][CASES[name][2]]
    if name != "rise":
        torch.testing.assert_close(found.attribution, explain(name), rtol=1e-9, atol=1e-12)
    assert found.error.shape == found.attribution.shape
    assert (found.error >= 0).all()


@pytest.mark.parametrize("name", CASES)
def test_a_tolerance_ends_it(name: str) -> None:
    size = {"nt_samples_batch_size" if name == "noise-tunnel" else "perturbations_per_eval": 8}
    found = explain(name, tolerance=0.8, **size)
    assert found.relative_error <= 0.8
    assert 2 <= found.samples < CASES[name][1][CASES[name][2]]
    spread = found.attribution.flatten(1).std(1, correction=0)
    expected = (found.error.flatten(1).square().mean(1).sqrt() / spread).max()
    assert found.relative_error == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_standard_errors_cover(name: str) -> None:
    """Of 95 % intervals by Student's distribution, as many hold the converged value, within 4 %."""
    truth = torch.stack([explain(name, seed=10_000 + seed) for seed in range(40)]).mean(0)
    # With 15 degrees of freedom where errors are from 16 groups, 63 of 64 samples or orders.
    # 7 where they are from 8.
    quantile = 2.131 if name in ("rise", "rise-published", "kernelshap") else 1.998
    quantile = 2.365 if name == "gradient-shap" else quantile
    count = 64 if name in (*GRADIENTS, "shapley") else 256
    inside = []
    for seed in range(60):
        with pytest.warns(UserWarning, match="not reached"):
            found = explain(name, seed=seed, tolerance=1e-9, **with_count(name, count))
        inside.append(((found.attribution - truth).abs() <= quantile * found.error).double().mean())
    assert 0.91 <= float(torch.stack(inside).mean()) <= 0.99


def test_integrated_gradients_are_the_trapezoid_rules() -> None:
    model, x = smooth(), pixels()
    found = fastsal.IntegratedGradients(model).estimate(x, target=1, n_steps=33, tolerance=1e-12, internal_batch_size=6)
    points = torch.linspace(0, 1, 33, dtype=torch.float64)
    weights = torch.full((33,), 1 / 32, dtype=torch.float64)
    weights[[0, -1]] /= 2
    total = torch.zeros_like(x)
    for point, weight in zip(points, weights, strict=True):
        leaf = (point * x).requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
        total += weight * gradient
    torch.testing.assert_close(found.attribution, x * total, rtol=1e-10, atol=1e-12)
    assert found.samples == 33


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-4])
def test_integrated_gradients_stop_at_a_map_that_is_as_good_as_said(tolerance: float) -> None:
    model, x = smooth(), pixels()
    explainer = fastsal.IntegratedGradients(model)
    truth = explainer.attribute(x, target=1, n_steps=200)
    found = explainer.estimate(x, target=1, n_steps=1025, tolerance=tolerance, internal_batch_size=2)
    assert found.relative_error <= tolerance
    assert found.samples < 1025
    apart = (found.attribution - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    assert (apart <= tolerance).all()
    change = (model(x) - model(torch.zeros_like(x)))[:, 1]
    gap = (found.attribution.flatten(1).sum(1) - change).abs() / found.attribution.flatten(1).abs().sum(1)
    assert (gap <= tolerance).all()


class Slow(nn.Module):
    """Takes a while for every call."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.inner, self.seconds = smooth(), seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        found: Tensor = self.inner(x)
        return found


@pytest.mark.parametrize("name", [*CASES, "integrated-gradients"])
def test_a_deadline_ends_it(name: str) -> None:
    """Where one call fits: after some calls, and before all of them (100 of 5 ms)."""
    model = Slow(0.005)
    if name == "integrated-gradients":
        found = fastsal.IntegratedGradients(model).estimate(
            pixels(), target=1, n_steps=513, internal_batch_size=8, deadline=0.15
        )
    else:
        size = {"nt_samples_batch_size" if name == "noise-tunnel" else "perturbations_per_eval": 5}
        found = explain(name, model, deadline=0.15, **size)
    assert 2 <= found.samples < 512
    assert found.seconds > 0.05


def test_a_deadline_before_the_first_call_is_over_gives_what_there_is() -> None:
    found = explain("rise", Slow(0.02), deadline=1e-6, perturbations_per_eval=4)
    assert found.samples == 1  # the first model call is of one mask, however many it may take
    found = explain("shapley", Slow(0.0), deadline=1e-6, perturbations_per_eval=12)
    assert found.samples == 0  # one of the four coalitions of the first order
    assert found.error.isinf().all()
    assert found.relative_error == float("inf")


class Rows(Slow):
    """Takes a while for every row of a call."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds * (len(x) - 1))
        return super().forward(x)


@pytest.mark.parametrize("rows", [None, 64])
def test_a_deadline_holds_from_the_first_model_call_on(rows: int | None) -> None:
    """Memory alone would give it 64 masks at once, which take twice the time that there is."""
    model = Rows(0.005)
    fastsal.RISE(model).estimate(pixels(), target=1, n_masks=4000, deadline=0.01)  # draws the masks
    before, whole = time.perf_counter(), 64 * 0.005 * len(pixels())
    found = fastsal.RISE(model).estimate(
        pixels(), target=1, n_masks=4000, deadline=whole / 2, perturbations_per_eval=rows
    )
    took = time.perf_counter() - before
    assert found.samples > 1
    assert took < 0.75 * whole  # half as much again for a machine that is busy


@pytest.mark.parametrize("name", CASES)
def test_improve_yields_ever_more_samples(name: str) -> None:
    make, given, count = CASES[name]
    model = smooth().train()
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    modes: list[bool] = []
    torch.manual_seed(0)
    seen = []
    for estimate in make(model).improve(pixels(), target=1, seed=0, **given):
        assert torch.is_grad_enabled()
        assert model.training
        seen.append(estimate)
    assert not any(modes)
    assert [estimate.samples for estimate in seen] == sorted({estimate.samples for estimate in seen})
    assert seen[-1].samples == given[count]
    if name != "rise":
        torch.testing.assert_close(seen[-1].attribution, explain(name), rtol=1e-9, atol=1e-12)
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(seen))


def test_improve_can_be_left() -> None:
    model = small().train()
    maps = fastsal.RISE(model).improve(image(), target=1, n_masks=64, perturbations_per_eval=8)
    assert next(maps).samples == 8
    assert model.training
    maps.close()
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_an_error_in_the_middle_comes_through() -> None:
    class Fails(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 3:
                raise KeyError("third")
            return x.flatten(1)

    model = Fails().train()
    with pytest.raises(KeyError, match="third"):
        fastsal.RISE(model).estimate(image(), target=1, perturbations_per_eval=4, deadline=5)
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: fastsal.RISE(m).estimate(image(), tolerance=0), ValueError, "tolerance: 0 is not above 0"),
        (lambda m: fastsal.RISE(m).estimate(image(), deadline="1"), TypeError, "deadline: '1' is not a number"),
        (lambda m: fastsal.RISE(m).estimate(image(), tolerance=float("nan")), ValueError, "tolerance: nan"),
        (
            lambda m: fastsal.IntegratedGradients(m).estimate(image(), target=1, tolerance=0.1, n_steps=2),
            ValueError,
            "n_steps: 2 is below 3",
        ),
        (
            lambda m: fastsal.IntegratedGradients(m).estimate(
                image(), target=1, tolerance=0.1, return_convergence_delta=True
            ),
            ValueError,
            "without return_convergence_delta",
        ),
        (
            lambda m: fastsal.NoiseTunnel(fastsal.Saliency(m)).estimate(image(), "vargrad", target=1, deadline=1),
            ValueError,
            "for nt_type='smoothgrad'",
        ),
        (
            lambda m: fastsal.ShapleyValues(m).improve(image(), target=1),
            TypeError,
            "ShapleyValues.attribute is exact",
        ),
        (lambda m: fastsal.RISE(m).improve(image(), n_masks=0), ValueError, "n_masks: 0 is below 1"),
    ],
)
def test_errors_name_the_argument(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(small())


@pytest.mark.parametrize("limits", [{"tolerance": 0.8}, {"deadline": 1e-6}], ids=["tolerance", "deadline"])
def test_explain_ends_what_can_end(limits: dict[str, float]) -> None:
    """A method with an estimate runs fewer masks and returns that estimate's map; what is exact is as without."""
    model, rows = small(), [0]
    model.register_forward_pre_hook(lambda _, given: rows.__setitem__(0, rows[0] + len(given[0])))
    options = {"target": 1, "n_masks": 512, "batch_size": 12}
    whole = fastsal.explain(model, image(), ["rise", "saliency"], **options).maps
    before, rows[0] = rows[0], 0
    found = fastsal.explain(model, image(), ["rise", "saliency"], **options, **limits).maps
    assert rows[0] < before / 2
    assert found["rise"].shape == whole["rise"].shape
    assert not torch.equal(found["rise"], whole["rise"])
    assert torch.equal(found["saliency"], whole["saliency"])


def test_explain_returns_maps_alone() -> None:
    with pytest.raises(TypeError, match="return_standard_error: rise takes no such option"):
        fastsal.explain(small(), image(), "rise", return_standard_error=True)


def test_one_sample_has_no_error_yet() -> None:
    found = explain("rise", n_masks=1, deadline=1.0)
    assert found.error.isinf().all()
    assert found.relative_error == float("inf")
