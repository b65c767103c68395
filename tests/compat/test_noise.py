"""NoiseTunnel, SmoothGrad and GradientShap: exact where the noise is none, in distribution where it is some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import PeakBytes, TwoInputs, image, small, unchanged

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def cube(z: Tensor) -> Tensor:
    return (z**3).flatten(1).sum(1)


POINT = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.5, -0.3]], dtype=torch.float64)
SPREAD = 0.4


def moments_of_the_gradient(x: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """E[g], Var[g] and E[g²] of g = 3 (x + s z)², z standard normal, from the moments 1, 3, 15 of z², z⁴, z⁶."""
    mean = 3 * (x**2 + s**2)
    square = 9 * (x**4 + 6 * x**2 * s**2 + 3 * s**4)
    return mean, square - mean**2, square


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_the_moments_are_those_of_the_distribution_as_captums_are(kind: str) -> None:
    """20 runs of 500 draws each: within 5 standard errors, taken from the runs themselves."""
    mean, variance, square = moments_of_the_gradient(POINT, SPREAD)
    expected = {"smoothgrad": mean, "smoothgrad_sq": square, "vargrad": variance * 499 / 500}[kind]
    ours = fastsal.NoiseTunnel(fastsal.Saliency(cube))
    theirs = attr.NoiseTunnel(attr.Saliency(cube))
    runs: dict[str, list[Tensor]] = {"ours": [], "theirs": []}
    for seed in range(20):
        options = {"nt_samples": 500, "stdevs": SPREAD, "abs": False}
        runs["ours"].append(ours.attribute(POINT, kind, seed=seed, **options))
        torch.manual_seed(seed)
        runs["theirs"].append(theirs.attribute(POINT.clone(), kind, **options).detach())
    for found in runs.values():
        stacked = torch.stack(found)
        error = stacked.std(0) / 20**0.5
        assert ((stacked.mean(0) - expected).abs() < 5 * error).all()


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("name", ["Saliency", "InputXGradient", "IntegratedGradients", "Occlusion", "LayerGradCam"])
def test_without_noise_it_is_captums(name: str, kind: str) -> None:
    """vargrad is then zero up to the rounding of Captum's difference of two equal numbers."""
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options: dict[str, Any] = {"target": [1, 3, 0], "nt_samples": 3, "stdevs": 0.0}
    if name == "Occlusion":
        options["sliding_window_shapes"] = (3, 4, 4)
    layer = (model.body,) if name.startswith("Layer") else ()
    ours = fastsal.NoiseTunnel(getattr(fastsal, name)(model, *layer))
    theirs = attr.NoiseTunnel(getattr(attr, name)(model, *layer)).attribute(x.clone(), kind, **options)
    rounded = name in ("IntegratedGradients", "Occlusion")
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if rounded else {"rtol": 1e-10, "atol": 1e-12}
    with unchanged(model, x):
        found = ours.attribute(x, kind, **options)
        torch.testing.assert_close(found, theirs.detach().to(found.dtype), **tolerance)
        inner = {key: value for key, value in options.items() if key not in ("nt_samples", "stdevs")}
        mixed = fastsal.NoiseTunnel(getattr(attr, name)(model, *layer)).attribute(x.clone(), kind, **options)
        torch.testing.assert_close(mixed.to(found.dtype), found, **tolerance)
        if kind == "smoothgrad":
            plain = getattr(fastsal, name)(model, *layer).attribute(x, **inner)
            torch.testing.assert_close(found, plain, **EXACT)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_the_same_seed_gives_the_same_bits_in_any_parts(kind: str) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    tunnel = fastsal.NoiseTunnel(fastsal.Saliency(model))
    options: dict[str, Any] = {"nt_samples": 7, "stdevs": 0.3, "target": [0, 1, 2], "seed": 11}
    whole = tunnel.attribute(x, kind, nt_samples_batch_size=7, **options)
    for rows in (1, 2, 3, None):
        found = tunnel.attribute(x, kind, nt_samples_batch_size=rows, **options)
        torch.testing.assert_close(found, whole, **EXACT)  # the model's own sums depend on its batch
    assert not torch.equal(tunnel.attribute(x, kind, **{**options, "seed": 12}), whole)
    linear = fastsal.NoiseTunnel(fastsal.InputXGradient(lambda z: z.flatten(1).sum(1)))
    options.pop("target")
    parts = [linear.attribute(x, kind, nt_samples_batch_size=rows, **options) for rows in (1, 3, 7)]
    assert torch.equal(parts[0], parts[1])
    assert torch.equal(parts[0], parts[2])


def explain(name: str, model: Any, x: Tensor, **options: Any) -> Tensor:
    if name == "GradientShap":
        rows = torch.zeros(2, *x.shape[1:], dtype=x.dtype)
        rows[1] = 1
        return fastsal.GradientShap(model).attribute(x, rows, stdevs=0.2, target=1, **options)
    if name == "SmoothGrad":
        return fastsal.SmoothGrad(model).attribute(x, 1, n_samples=5, **options)
    return fastsal.NoiseTunnel(fastsal.Saliency(model)).attribute(x, target=1, stdevs=0.2, **options)


every = pytest.mark.parametrize("name", ["NoiseTunnel", "SmoothGrad", "GradientShap"])


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """Captum raises here. The same noise in float32 gives the same map up to the format's 8 or 11 bits."""
    model, x = small(), image()
    expected = explain(name, model, x, seed=3)
    found = explain(name, small().to(dtype), x.to(dtype), seed=3)
    assert found.dtype == dtype
    scale = expected.abs().max()
    bits = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    # ten roundings in a row of five layers and their gradients, on inputs themselves rounded
    assert (found.float() - expected).abs().mean() < 20 * bits * scale


@every
def test_memory_does_not_grow_with_the_samples(name: str) -> None:
    model, x = small(), image(batch=2, size=24)
    key = {"NoiseTunnel": "nt_samples"}.get(name, "n_samples")
    rows = {"NoiseTunnel": "nt_samples_batch_size"}.get(name, "perturbations_per_eval")
    peaks = []
    for samples in (8, 40):
        with PeakBytes() as peak:
            if name == "SmoothGrad":
                fastsal.SmoothGrad(model).attribute(x, 1, stdevs=0.1, **{key: samples, rows: 4})
            else:
                explain(name, model, x, **{key: samples, rows: 4})
        peaks.append(peak.peak)
    assert peaks[1] < 1.02 * peaks[0]


def test_smooth_grad_is_the_shorthand() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options: dict[str, Any] = {"target": [1, 3, 0], "seed": 5}
    expected = fastsal.NoiseTunnel(fastsal.Saliency(model)).attribute(x, nt_samples=6, stdevs=0.2, **options)
    torch.testing.assert_close(fastsal.SmoothGrad(model).attribute(x, n_samples=6, stdevs=0.2, **options), expected)
    spread = (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)) * 0.1
    expected = fastsal.NoiseTunnel(fastsal.Saliency(model)).attribute(x, nt_samples=6, stdevs=spread, **options)
    found = fastsal.SmoothGrad(model).attribute(x, n_samples=6, noise_level=0.1, **options)
    torch.testing.assert_close(found, expected)


def test_tuples_targets_and_additional_arguments_are_repeated() -> None:
    model, inputs = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
    shift = torch.randn(3, 8).double()
    for target in (1, [0, 1, 3], torch.tensor([0, 1, 3]), [(0,), (1,), (3,)]):
        for additional in (None, shift, (shift, 0.5)):
            options: dict[str, Any] = {"target": target, "additional_forward_args": additional}
            theirs = attr.NoiseTunnel(attr.Saliency(model)).attribute(inputs, stdevs=(0.0, 0.0), **options)
            for rows in (None, 2):
                ours = fastsal.NoiseTunnel(fastsal.Saliency(model))
                found = ours.attribute(inputs, stdevs=(0.0, 0.0), nt_samples_batch_size=rows, **options)
                for one, other in zip(found, theirs, strict=True):
                    torch.testing.assert_close(one, other.detach(), **EXACT)
    noisy = fastsal.NoiseTunnel(fastsal.Saliency(lambda a, b: (a**2).flatten(1).sum(1) + (b**3).sum(1)))
    one, other = noisy.attribute(inputs, nt_samples=3, stdevs=(0.0, 0.5), seed=1)
    torch.testing.assert_close(one, (2 * inputs[0]).abs())
    assert not torch.allclose(other, 3 * inputs[1] ** 2)


def test_deltas_come_example_by_example() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options: dict[str, Any] = {"target": [1, 3, 0], "n_steps": 4, "return_convergence_delta": True}
    _, expected = attr.NoiseTunnel(attr.IntegratedGradients(model)).attribute(x, nt_samples=2, stdevs=0.0, **options)
    for rows in (None, 1):
        _, delta = fastsal.NoiseTunnel(fastsal.IntegratedGradients(model)).attribute(
            x, nt_samples=2, stdevs=0.0, nt_samples_batch_size=rows, **options
        )
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-6)


def test_baselines_are_repeated_or_drawn() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    ours = fastsal.NoiseTunnel(fastsal.IntegratedGradients(model))
    for baselines in (
        0.5,
        torch.rand(1, 3, 8, 9).double(),
        torch.rand(3, 3, 8, 9).double(),
        torch.rand(1, 3, 1, 1).double(),
    ):
        found = ours.attribute(x, stdevs=0.0, target=1, baselines=baselines, n_steps=4)
        plain = fastsal.IntegratedGradients(model).attribute(x, baselines, 1, n_steps=4)
        torch.testing.assert_close(found, plain, **EXACT)
    rows = torch.tensor([0.0, 1.0]).double()[:, None].expand(2, 3)
    tunnel = fastsal.NoiseTunnel(fastsal.IntegratedGradients(lambda z: z.sum(1)))
    found = tunnel.attribute(
        POINT, nt_samples=400, stdevs=0.0, baselines=rows, draw_baseline_from_distrib=True, n_steps=2, seed=0
    )
    # The attribution is x - b with b = 0 or 1 by a fair coin; 400 draws have a standard error of 0.025.
    assert ((POINT - found) - 0.5).abs().max() < 5 * 0.025


def test_one_score_per_call_is_asked_one_sample_at_a_time() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    mean = fastsal.NoiseTunnel(fastsal.Saliency(lambda z: model(z)[:, 1].mean()))
    each = fastsal.NoiseTunnel(fastsal.Saliency(model)).attribute(x, target=1, stdevs=0.2, seed=1)
    torch.testing.assert_close(mean.attribute(x, stdevs=0.2, seed=1), each / 3, **EXACT)


class TestGradientShap:
    """Against the expectation, which for a cubic is a polynomial."""

    def test_expectation(self) -> None:
        """f = Σ x³: E over a of (x - b) 3 (b + a (x - b))² = x³ - b³, averaged over the baselines."""
        rows = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
        expected = POINT**3 - (rows**3).mean(0)
        for namespace in (fastsal, attr):
            runs = []
            for seed in range(20):
                torch.manual_seed(seed)
                np.random.seed(seed)
                found = namespace.GradientShap(cube).attribute(POINT.clone(), rows, n_samples=300)
                runs.append(found.detach())
            stacked = torch.stack(runs)
            assert ((stacked.mean(0) - expected).abs() < 5 * stacked.std(0) / 20**0.5).all()

    def test_linear_models_are_exact_from_one_draw(self) -> None:
        weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        explainer = fastsal.GradientShap(lambda z: z @ weight)
        found, delta = explainer.attribute(POINT, torch.ones(1, 3).double(), return_convergence_delta=True)
        torch.testing.assert_close(found, (POINT - 1) * weight)
        assert delta.shape == (10,)
        assert delta.abs().max() < 1e-12
        local = fastsal.GradientShap(lambda z: z @ weight, multiply_by_inputs=False)
        torch.testing.assert_close(local.attribute(POINT, lambda: torch.ones(1, 3).double()), weight.expand(2, 3))
        torch.testing.assert_close(local.attribute(POINT, lambda x: x[:1]), weight.expand(2, 3))

    def test_tuples_and_parts(self) -> None:
        model, inputs = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
        rows = (torch.randn(4, 3, 4).double(), torch.randn(6, 5).double())
        options: dict[str, Any] = {
            "n_samples": 6,
            "stdevs": (0.1, 0.0),
            "target": [0, 1, 3],
            "additional_forward_args": torch.randn(3, 8).double(),
            "return_convergence_delta": True,
            "seed": 4,
        }
        with unchanged(model, *inputs, *rows):
            whole, delta = fastsal.GradientShap(model).attribute(inputs, rows, perturbations_per_eval=6, **options)
        for size in (1, 4, None):
            found, parts = fastsal.GradientShap(model).attribute(inputs, rows, perturbations_per_eval=size, **options)
            for one, other in zip(found, whole, strict=True):
                torch.testing.assert_close(one, other, **EXACT)
            torch.testing.assert_close(parts, delta, **EXACT)
        single, _ = fastsal.GradientShap(nn.Linear(5, 2).double()).attribute(
            inputs[1:], rows[1:], target=1, return_convergence_delta=True
        )
        assert isinstance(single, tuple)


def test_refusals() -> None:
    model, x = small(), image()
    tunnel = fastsal.NoiseTunnel(fastsal.Saliency(model))
    for options, message in (
        ({"nt_type": "smooth"}, "nt_type: 'smooth' is not one of smoothgrad"),
        ({"nt_samples": 0}, "nt_samples: 0 is below 1"),
        ({"nt_samples_batch_size": 0}, "nt_samples_batch_size: 0 is below 1"),
        ({"stdevs": (0.1, 0.2)}, "stdevs: 2 given for 1 inputs"),
        ({"stdevs": -1.0}, "std"),
    ):
        with pytest.raises(ValueError, match=message):
            tunnel.attribute(x, target=1, **options)
    with pytest.raises(TypeError, match=r"seed: 1\.5"):
        tunnel.attribute(x, target=1, seed=1.5)
    with pytest.raises(TypeError, match=r"nt_samples: 2\.5 is not an int"):
        tunnel.attribute(x, target=1, nt_samples=2.5)
    with pytest.raises(TypeError, match=r"inputs: torch\.int64 takes no noise"):
        tunnel.attribute(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="attribution_method: Small has no method attribute"):
        fastsal.NoiseTunnel(model)
    for rows, error in ((None, TypeError), (0.0, TypeError), (torch.zeros(0, 3, 8, 9), ValueError)):
        with pytest.raises(error, match="baselines"):
            fastsal.GradientShap(model).attribute(x, rows, target=1)
