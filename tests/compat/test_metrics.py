"""Infidelity and sensitivity: Captum 0.9.0's numbers for the same perturbations, and the paper's formulas."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum import attr
from captum import metrics as theirs
from torch import Tensor, nn

import fastsal
from fastsal.metrics import default_perturb_func, infidelity, infidelity_perturb_func_decorator, sensitivity_max
from tests.explainers.networks import TwoInputs, image, small, unchanged

EXACT = {"rtol": 1e-10, "atol": 1e-13}


def noise(like: Tensor, seed: int) -> Tensor:
    """The same for the same seed and place."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype) * 0.1


def counting() -> Callable[..., Any]:
    """A perturb_func whose noise depends on how often it was called."""
    calls = 0

    def perturb(inputs: Any, baselines: Any = None) -> Any:
        nonlocal calls
        calls += 1
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        moves = tuple(noise(tensor, 10 * calls + i) for i, tensor in enumerate(tensors))
        altered = tuple(tensor - move for tensor, move in zip(tensors, moves, strict=True))
        if baselines is not None:
            starts = baselines if isinstance(baselines, tuple) else (baselines,)
            altered = tuple(x + 0.1 * b for x, b in zip(altered, starts, strict=True))
        return (moves, altered) if isinstance(inputs, tuple) else (moves[0], altered[0])

    return perturb


def of_rows(inputs: Any) -> Any:
    """A perturbation that depends on the row's values alone."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    moves = tuple(0.1 * torch.sin(7 * tensor) for tensor in tensors)
    altered = tuple(tensor - move for tensor, move in zip(tensors, moves, strict=True))
    return (moves, altered) if isinstance(inputs, tuple) else (moves[0], altered[0])


@pytest.mark.parametrize("name", ["infidelity", "sensitivity_max", "infidelity_perturb_func_decorator"])
def test_arguments_of_captum_come_first_and_in_its_order(name: str) -> None:
    ours = inspect.signature(getattr(fastsal.metrics, name)).parameters.values()
    expected = inspect.signature(getattr(theirs, name)).parameters.values()
    shared = [p for p in ours if p.name != "seed"]
    assert [(p.name, p.kind) for p in shared] == [(p.name, p.kind) for p in expected]
    assert [p.default for p in shared if not callable(p.default)] == [
        p.default for p in expected if not callable(p.default)
    ]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("samples", "limit"), [(10, 30), (7, 6), (5, 3), (1, None), (4, 12)])
@pytest.mark.parametrize("target", [1, [2, 0, 3], torch.tensor([0, 3, 1])], ids=["int", "list", "tensor"])
def test_infidelity_is_captums(normalize: bool, samples: int, limit: int | None, target: Any) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    maps = fastsal.Saliency(model).attribute(x, target=target)
    options: dict[str, Any] = {
        "target": target,
        "n_perturb_samples": samples,
        "max_examples_per_batch": limit,
        "normalize": normalize,
    }
    ours = infidelity(model, counting(), x, maps, **options)
    expected = theirs.infidelity(model, counting(), x, maps, **options)
    assert ours.shape == (3,)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, **EXACT)


@pytest.mark.parametrize("with_baselines", [False, True])
def test_infidelity_of_several_inputs_with_additional_arguments(with_baselines: bool) -> None:
    model = TwoInputs().double().eval()
    inputs = (torch.randn(3, 3, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64))
    baselines = (torch.randn(3, 3, 4, dtype=torch.float64), 0.5) if with_baselines else None
    additional = (torch.randn(3, 8, dtype=torch.float64), 0.7)
    options: dict[str, Any] = {
        "baselines": baselines,
        "additional_forward_args": additional,
        "target": [0, 1, 3],
        "n_perturb_samples": 6,
        "max_examples_per_batch": 9,
    }
    maps = tuple(map(torch.rand_like, inputs))
    ours = infidelity(model, counting(), inputs, maps, **options)
    torch.testing.assert_close(ours, theirs.infidelity(model, counting(), inputs, maps, **options), **EXACT)


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("baselines", [None, 0.25, "tensor"])
def test_decorated_functions_return_perturbed_inputs(multiply: bool, baselines: Any) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    x[0, 0, 0, 0] = 0.0
    baselines = torch.rand_like(x) if baselines == "tensor" else baselines

    def shrink(inputs: Tensor, starts: Any = 0.0) -> Tensor:
        return torch.where(torch.sin(9 * inputs) > 0, inputs, starts)

    maps = fastsal.IntegratedGradients(model).attribute(x, target=1)
    results = [
        package.infidelity(
            model, package.infidelity_perturb_func_decorator(multiply)(shrink), x, maps, baselines, target=1
        )
        for package in (fastsal.metrics, theirs)
    ]
    torch.testing.assert_close(*results, **EXACT)
    assert infidelity_perturb_func_decorator(multiply)(shrink).__name__ == "shrink"


def test_infidelity_of_the_gradient_of_a_linear_model_is_zero() -> None:
    model, x = nn.Linear(6, 2, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    gradient = model.weight[1].detach().expand(4, 6)
    assert infidelity(model, counting(), x, gradient, target=1).max() < 1e-28
    # Definition 2.1 by hand: of twice the gradient it is the mean square of the change itself.
    (moves, _) = counting()(x.repeat_interleave(10, 0))
    expected = (moves @ model.weight[1].detach()).square().reshape(4, 10).mean(1)
    found = infidelity(model, counting(), x, 2 * gradient, target=1, n_perturb_samples=10, max_examples_per_batch=40)
    torch.testing.assert_close(found, expected, **EXACT)
    scaled = infidelity(model, counting(), x, 1e6 * gradient, target=1, normalize=True)
    assert 0 <= scaled.min() <= scaled.max() < 1e-15


def test_the_clean_pass_runs_once_and_chunks_hold_what_they_may() -> None:
    model, x, rows = small(), image(), []

    def forward(batch: Tensor) -> Tensor:
        rows.append(len(batch))
        return model(batch)

    infidelity(forward, of_rows, x, torch.rand_like(x), target=1, n_perturb_samples=7, max_examples_per_batch=8)
    assert rows == [3, 3, 6, 3, 6, 6, 6, 3]  # the second to fourth tell whether rows depend on each other, once
    rows.clear()
    infidelity(forward, of_rows, x, torch.rand_like(x), target=1, n_perturb_samples=7)
    assert sum(rows) == 3 + 21
    assert rows[0] == 3
    with pytest.warns(UserWarning, match="max_examples_per_batch"):
        infidelity(forward, of_rows, x, torch.rand_like(x), target=1, n_perturb_samples=2, max_examples_per_batch=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_models_have_float32_metrics(dtype: torch.dtype) -> None:
    model, x = nn.Linear(6, 2).to(dtype), torch.randn(4, 6).to(dtype)
    maps = torch.rand(4, 6).to(dtype)
    found = infidelity(model, of_rows, x, maps, target=1)
    assert found.dtype == torch.float32
    assert sensitivity_max(fastsal.Saliency(model).attribute, x, target=1).dtype == torch.float32
    exact = infidelity(model.double(), of_rows, x.double(), maps.double(), target=1)
    torch.testing.assert_close(found.double(), exact, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("method", ["Saliency", "IntegratedGradients", "Occlusion"])
@pytest.mark.parametrize("norm_ord", ["fro", 1, float("inf")], ids=str)
@pytest.mark.parametrize("package", [fastsal, attr], ids=["fastsal", "captum"])
def test_sensitivity_is_captums(method: str, norm_ord: Any, package: Any) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    explain = getattr(package, method)(model).attribute
    options: dict[str, Any] = {"target": [2, 0, 3], "n_perturb_samples": 5, "norm_ord": norm_ord}
    options |= {"baselines": torch.rand_like(x)} if method != "Saliency" else {}
    options |= {"sliding_window_shapes": (3, 3, 3), "strides": (3, 3, 3)} if method == "Occlusion" else {}

    def perturbed() -> Callable[..., Any]:
        draw = counting()
        return lambda inputs, radius: inputs + radius * draw(inputs)[0]

    ours, expected = (
        sensitivity(explain, x, perturbed(), 0.1, max_examples_per_batch=6, **options)
        for sensitivity in (sensitivity_max, theirs.sensitivity_max)
    )
    assert ours.shape == (3,)
    # Captum's Occlusion rounds to float32.
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if (package, method) == (attr, "Occlusion") else EXACT
    torch.testing.assert_close(ours, expected, **tolerance)


def test_sensitivity_of_several_inputs_repeats_what_is_per_example() -> None:
    model = TwoInputs().double().eval()
    inputs = (torch.randn(3, 3, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64))
    options: dict[str, Any] = {
        "target": torch.tensor([0, 1, 3]),
        "additional_forward_args": (torch.randn(3, 8, dtype=torch.float64), 0.7),
        "baselines": tuple(map(torch.rand_like, inputs)),
        "max_examples_per_batch": 12,
    }
    explain = fastsal.IntegratedGradients(model).attribute
    results = [
        package.sensitivity_max(explain, inputs, lambda rows: of_rows(rows)[1], **options)
        for package in (fastsal.metrics, theirs)
    ]
    torch.testing.assert_close(*results, **EXACT)


def test_sensitivity_is_the_greatest_of_what_the_explanations_say() -> None:
    x = torch.randn(2, 5, dtype=torch.float64)
    seen: list[Any] = []

    def explain(inputs: Any) -> Any:
        seen.append(inputs)
        return inputs[0] ** 2 if isinstance(inputs, tuple) else inputs**2

    found = sensitivity_max(explain, x, lambda rows: rows + noise(rows, 3), n_perturb_samples=4)
    assert isinstance(seen[0], tuple)
    assert isinstance(seen[-1], Tensor)  # after those that ask whether rows depend on each other
    change = (seen[-1].reshape(2, 4, 5) ** 2 - x[:, None] ** 2).norm(dim=2) / (x**2).norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, change.amax(1), **EXACT)
    # Where the explanation is zero it is divided by 1, as in Captum.
    zero = torch.zeros(2, 5, dtype=torch.float64)
    found = sensitivity_max(explain, zero, lambda rows: rows + 2, n_perturb_samples=1)
    torch.testing.assert_close(found, torch.full((2,), 80**0.5, dtype=torch.float64), **EXACT)


def test_default_noise_is_uniform_and_leaves_the_callers_generators() -> None:
    x = torch.zeros(2, 5000, dtype=torch.float64)
    explain = fastsal.Saliency(nn.Sequential(nn.Linear(5000, 2), nn.Tanh()).double()).attribute
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    (first,), (again,) = default_perturb_func(x, 0.3, seed=4), default_perturb_func(x, 0.3, seed=4)
    one, other = (sensitivity_max(explain, x, target=1, seed=s, n_perturb_samples=2) for s in (1, 2))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.equal(first, again)
    assert first.dtype == torch.float64
    assert not torch.equal(one, other)
    assert first.abs().max() <= 0.3
    # Uniform on [-r, r]: mean 0 and variance r^2 / 3, within 5 standard errors of 10 000 numbers.
    assert abs(float(first.mean())) < 5 * 0.3 / 3**0.5 / 100
    assert abs(float(first.var()) / 0.03 - 1) < 5 * 0.9 / 100


def test_a_seed_gives_the_same_sensitivity_for_every_batch_size() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    explain = fastsal.Saliency(model).attribute
    state = torch.get_rng_state()
    results = [
        sensitivity_max(explain, x, target=1, n_perturb_samples=7, max_examples_per_batch=limit, seed=5)
        for limit in (3, 6, 11, 21, None)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    with torch.device("meta"):  # whatever the default device is
        results.append(sensitivity_max(explain, x, target=1, n_perturb_samples=7, seed=5))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **EXACT)
    # In distribution Captum's: the mean over seeds, within 5 standard errors.
    draws = torch.stack([sensitivity_max(explain, x, target=1, seed=s) for s in range(60)])
    expected = torch.stack([theirs.sensitivity_max(explain, x, target=1) for _ in range(60)])
    error = (draws.var(0) / 60 + expected.var(0) / 60).sqrt()
    assert ((draws.mean(0) - expected.mean(0)).abs() < 5 * error + 1e-12).all()


def test_masks_of_each_example_are_repeated() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double(), torch.randn(2, 4).double()
    mask = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    explain = functools.partial(fastsal.KernelShap(model).attribute, n_samples=50, seed=1)
    both = sensitivity_max(explain, x, lambda rows: rows * 1.1, feature_mask=mask, target=1)
    for i in range(2):
        one = sensitivity_max(explain, x[i : i + 1], lambda r: r * 1.1, feature_mask=mask[i : i + 1], target=1)
        torch.testing.assert_close(both[i : i + 1], one, **EXACT)


def test_the_model_and_the_inputs_stay() -> None:
    model, x = small().train(), image()
    x.requires_grad_()
    with unchanged(model, x):
        infidelity(model, of_rows, x, torch.rand_like(x), target=1)
        sensitivity_max(fastsal.Saliency(model).attribute, x, target=1)
        with torch.inference_mode():
            found = infidelity(model, of_rows, x, torch.rand_like(x), target=1)
            sensitivity_max(fastsal.Saliency(model).attribute, x.clone(), target=1)
    assert found.isfinite().all()

    def fails(batch: Tensor) -> Tensor:
        if len(batch) > 3:
            raise KeyError("no")
        return model(batch)

    with unchanged(model, x), pytest.raises(KeyError):
        infidelity(fails, of_rows, x, torch.rand_like(x), target=1)


def test_refusals_name_the_argument() -> None:
    model, x = small(), image()
    maps = torch.rand_like(x)
    cases: list[tuple[str, type[Exception], Callable[[], Any]]] = [
        ("attributions", ValueError, lambda: infidelity(model, of_rows, x, maps[:, :1], target=1)),
        ("target", ValueError, lambda: infidelity(model, of_rows, x, maps)),
        ("target", TypeError, lambda: infidelity(model, of_rows, x, maps, target=lambda out: 1)),
        ("perturb_func", TypeError, lambda: infidelity(model, lambda rows: rows, x, maps, target=1)),
        ("perturb_func", ValueError, lambda: infidelity(model, lambda r: (r, r[:2]), x, maps, target=1)),
        ("perturb_func", ValueError, lambda: infidelity(model, lambda r: (r[:2], r), x, maps, target=1)),
        ("n_perturb_samples", ValueError, lambda: infidelity(model, of_rows, x, maps, target=1, n_perturb_samples=0)),
        ("norm_ord", ValueError, lambda: sensitivity_max(lambda rows: rows, x, norm_ord="nuc")),
        ("explanation_func", ValueError, lambda: sensitivity_max(lambda rows: rows[0][:1], x)),
        (
            "forward_func",
            ValueError,
            lambda: infidelity(lambda r: r.sum(), of_rows, x[:1].repeat(2, 1, 1, 1), maps[:2]),
        ),
    ]
    for name, kind, call in cases:
        with pytest.raises(kind, match=f"{name}:"):
            call()
