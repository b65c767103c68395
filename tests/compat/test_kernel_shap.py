"""KernelShap: exact Shapley values where they are known, Captum 0.9.0's numbers for the same coalitions."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from fastsal.explainers.perturbation.surrogate import kernel_shap
from fastsal.explainers.perturbation.surrogate._coalitions import Design, _pairs
from fastsal.explainers.perturbation.surrogate.fits import shapley_regression
from tests.explainers.networks import PeakBytes, TwoInputs, image, small, unchanged


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def interacting(x: Tensor) -> Tensor:
    """[B, 5] into [B]: products of two and three features, so that samples leave an error."""
    return x[:, 0] * x[:, 1] * x[:, 2] + 2 * x[:, 3] * x[:, 4] - x[:, 0] + (x[:, 1] - x[:, 4]).tanh()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def exact(forward: Any, x: Tensor, baseline: Tensor) -> Tensor:
    """Shapley values [M] of one example [1, M], by their definition."""
    total = x.shape[1]
    sets = torch.tensor(list(itertools.product([False, True], repeat=total)))
    scores = dict(zip(map(tuple, sets.tolist()), forward(torch.where(sets, x, baseline)).tolist(), strict=True))
    values = []
    for feature in range(total):
        value = 0.0
        for members, score in scores.items():
            if not members[feature]:
                size = sum(members)
                share = math.factorial(size) * math.factorial(total - size - 1) / math.factorial(total)
                joined = (*members[:feature], True, *members[feature + 1 :])
                value += share * (scores[joined] - score)
        values.append(value)
    return torch.tensor(values, dtype=torch.float64)


def draw_coalitions(count: int, total: int, random: torch.Generator) -> Tensor:
    """Coalitions that Captum could have drawn: all, none, and sizes by the kernel's probabilities."""
    ends = torch.tensor([[True], [False]]).expand(2, total)
    if total == 1 or count == 2:
        return ends
    mass = {size: 1 / (size * (total - size)) for size in range(1, total)}
    chances = torch.tensor(list(mass.values()), dtype=torch.float64)
    return torch.cat([ends, _pairs(2 * (count - 2), list(mass), chances, total, random)[::2]])


def drawn(present: Tensor) -> Design:
    """A design of given coalitions, all weighing the same."""
    return Design(present, 2, torch.zeros(0, dtype=torch.float64), 1.0)


def captum_on(model: Any, present: Tensor, inputs: Any, **options: Any) -> Any:
    """Captum's result for given coalitions."""
    explainer = attr.KernelShap(model)

    def perturb(_inputs: Any, **_options: Any) -> Any:
        yield from present.long()[:, None]

    explainer.perturb_func = perturb
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer.attribute(inputs, n_samples=len(present), **options)


def test_arguments_of_captum_come_first_and_in_its_order() -> None:
    ours, theirs = fastsal.KernelShap, attr.KernelShap
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    parameters = list(inspect.signature(ours.attribute).parameters.values())
    expected = list(inspect.signature(theirs.attribute).parameters.values())
    assert [p.name for p in parameters[: len(expected)]] == [p.name for p in expected]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[len(expected) :])
    changed = {"perturbations_per_eval"}
    assert all(a.default == b.default for a, b in zip(parameters, expected, strict=False) if a.name not in changed)
    assert issubclass(ours, fastsal.Lime)
    assert ours.attribute.__wrapped__ is not None
    explainer = ours(small())
    assert (explainer.multiplies_by_inputs, explainer.has_convergence_delta()) == (False, False)


@pytest.mark.parametrize("n_samples", [2, 5, 8, 25, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_coalitions_give_captums_values(
    n_samples: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network().to(dtype)
    x, baselines = torch.randn(3, 6, dtype=dtype), torch.randn(1, 6, dtype=dtype)
    present = draw_coalitions(n_samples, 6, generator())
    monkeypatch.setattr(kernel_shap, "design", lambda *_: drawn(present))
    ours = fastsal.KernelShap(model).attribute(x, baselines, target=[0, 1, 2], n_samples=n_samples)
    theirs = captum_on(model, present, x, baselines=baselines, target=[0, 1, 2])
    assert ours.dtype == dtype
    # Captum fits in float32 (6e-8 of scores near 1, weighted sums of some hundred of them) and misses the two ends by
    # (sum of the residuals) / 1e6; measured: 3e-7 in both dtypes.
    torch.testing.assert_close(ours, theirs.to(dtype), rtol=0, atol=2e-6)
    change = (model(x) - model(baselines))[range(3), range(3)]
    missed = (ours.sum(1) - change).abs().max()
    assert missed < (1e-14 if dtype == torch.float64 else 5e-7)


@pytest.mark.parametrize(("n_samples", "total"), [(4, 6), (12, 6), (60, 6), (30, 40), (300, 40)])
def test_the_constraint_is_the_limit_of_captums_weight(n_samples: int, total: int) -> None:
    """In float64, weight w at the ends is off by O(1 / w): what 1e6 costs is 1e-6 of the residuals."""
    present = draw_coalitions(n_samples, total, generator(n_samples))
    outputs = torch.randn(1, n_samples, dtype=torch.float64, generator=generator(3))
    # Equal coalitions have equal scores.
    distinct, where = torch.unique(present, dim=0, return_inverse=True)
    outputs = outputs[:, : len(distinct)][:, where]
    ours = shapley_regression(present[2:], outputs[:, 2:], outputs[:, 1], outputs[:, 0])[0]
    assert abs(float(ours.sum() - outputs[0, 0] + outputs[0, 1])) < 1e-13
    features = present.double().numpy()
    errors = []
    for weight in (1e4, 1e6):
        weights = np.ones(n_samples)
        weights[:2] = weight
        share = weights[:, None] / weights.sum()
        centred, level = features - (share * features).sum(0), outputs[0].numpy() - share[:, 0] @ outputs[0].numpy()
        root = np.sqrt(weights)
        found = np.linalg.lstsq(centred * root[:, None], level * root, rcond=1e-10)[0]
        errors.append(np.abs(found - ours.numpy()).max())
    assert errors[1] < 1e-6 * n_samples
    # With fewer samples than features all of them are met, whatever the weights.
    assert errors[1] < errors[0] / 50 or errors[0] < 1e-9


@pytest.mark.parametrize("total", [1, 2, 3, 12])
def test_a_linear_model_needs_no_more_samples_than_features(total: int) -> None:
    weight, x = torch.randn(total, dtype=torch.float64), torch.randn(2, total, dtype=torch.float64)
    baseline = torch.randn(total, dtype=torch.float64)
    for seed in range(3):
        found = fastsal.KernelShap(lambda rows: rows @ weight + 5).attribute(
            x, baseline[None], n_samples=2 + 3 * total, seed=seed
        )
        torch.testing.assert_close(found, weight * (x - baseline), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_interactions_converge_to_shapley_values() -> None:
    x, baseline = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    expected = exact(interacting, x, baseline)
    explainer = fastsal.KernelShap(interacting)
    runs = torch.cat([explainer.attribute(x, baseline, n_samples=20, seed=s) for s in range(80)])
    # 5 standard errors of the mean over 80 seeds; the bias of a ratio of means, O(1 / n), is below one of them.
    assert ((runs.mean(0) - expected).abs() < 5 * runs.std(0) / 80**0.5 + 1e-12).all()
    for n_samples in (30, 200):  # of 2^5 - 2 between none and all
        found = explainer.attribute(x, baseline, n_samples=n_samples, seed=0)
        torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-12)


def deep(seed: int) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(seed)
    layers = [nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)]
    network = nn.Sequential(*layers).double().requires_grad_(False)
    return lambda x: network(x)[:, 0]


def test_twelve_features_are_exact_from_all_coalitions_on() -> None:
    model, x = deep(0), torch.randn(1, 12, dtype=torch.float64)
    found = fastsal.KernelShap(model).attribute(x, n_samples=4094, seed=0)
    expected = fastsal.ShapleyValues(model).attribute(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    estimate = fastsal.KernelShap(model).estimate(x, n_samples=4094, seed=0)
    assert estimate.relative_error == 0


def test_interactions_of_two_features_are_exact_from_few() -> None:
    """A pair of complements cancels all even parts of the game."""

    def game(x: Tensor) -> Tensor:
        return (x[:, :6] * x[:, 6:]).sum(1) + x[:, 0] * x[:, 5] - x.sum(1)

    x = torch.randn(1, 12, dtype=torch.float64)
    found = fastsal.KernelShap(game).attribute(x, n_samples=60, seed=0)
    torch.testing.assert_close(found, fastsal.ShapleyValues(game).attribute(x), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_two_hundred_samples_are_three_times_as_close_as_captums() -> None:
    model, x = deep(0), torch.randn(1, 12, dtype=torch.float64)
    expected = fastsal.ShapleyValues(model).attribute(x)
    errors: list[list[Tensor]] = [[], []]
    for seed in range(50):
        errors[0].append((fastsal.KernelShap(model).attribute(x, n_samples=200, seed=seed) - expected).norm())
        torch.manual_seed(seed)
        theirs = attr.KernelShap(model).attribute(x, n_samples=200, perturbations_per_eval=200)
        errors[1].append((theirs.double() - expected).norm())
    ours, captums = (torch.stack(each).mean() for each in errors)
    assert ours <= captums / 3


def test_calls_are_full_batches_and_no_coalition_runs_twice() -> None:
    calls: list[Tensor] = []

    def forward(batch: Tensor) -> Tensor:
        calls.append(batch.clone())
        return interacting(batch)

    x = torch.randn(2, 5)
    for examples, n_samples, size in ((2, 200, None), (1, 200, 6), (1, 20, 6)):
        calls.clear()
        fastsal.KernelShap(forward).attribute(x[:examples], n_samples=n_samples, perturbations_per_eval=size)
        # First, whether rows depend on each other: the examples, twice as many, the examples again.
        assert [len(call) for call in calls[:3]] == [examples, 2 * examples, examples]
        if len(calls[4:5]) and len(calls[4]) == examples:  # and the last of the first so many copies, once
            calls.pop(4)
        rows, full = torch.cat(calls[3:]), len(calls[3])
        assert full == (size or examples * 2**5)
        assert all(len(call) == full for call in calls[3:-1])
        assert len(rows) <= examples * min(n_samples, 2**5)
        if n_samples > 2**5:
            assert len(rows) == examples * 2**5
        assert torch.isin(rows, torch.cat([x.new_zeros(1), x[:examples].flatten()])).all()
        # A row without all features is the same coalition of every example.
        assert len(rows.unique(dim=0)) == len(rows) - (examples - 1)


def test_forms_of_inputs_and_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TwoInputs().double().eval()
    inputs = (torch.randn(3, 3, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64))
    masks = (torch.arange(12).reshape(1, 3, 4) // 3, torch.tensor([[0, 1, 4, 5, 5]]))
    own = (masks[0].expand(3, -1, -1).clone(), torch.tensor([[0, 1, 4, 5, 5], [5, 5, 1, 4, 2], [0, 0, 0, 3, 5]]))
    own[0][1] = own[0][1].flip(0)
    additional = (torch.randn(3, 8, dtype=torch.float64), 0.7)
    for mask, baselines in itertools.product((masks, own), (None, (0.5, torch.rand(3, 5, dtype=torch.float64)))):
        present = draw_coalitions(40, 6, generator(2))
        monkeypatch.setattr(kernel_shap, "design", lambda *_, present=present: drawn(present))
        options: dict[str, Any] = {
            "baselines": baselines,
            "target": torch.tensor([0, 1, 3]),
            "additional_forward_args": additional,
            "feature_mask": mask,
        }
        theirs = captum_on(model, present, inputs, **options)
        for count in (None, 9):
            ours = fastsal.KernelShap(model).attribute(inputs, n_samples=40, perturbations_per_eval=count, **options)
            assert isinstance(ours, tuple)
            for a, b in zip(ours, theirs, strict=True):
                assert a.shape == b.shape
                torch.testing.assert_close(a, b.double(), rtol=0, atol=2e-6)
        ours = fastsal.KernelShap(model).attribute(inputs, n_samples=40, return_input_shape=False, **options)
        theirs = captum_on(model, present, inputs, return_input_shape=False, **options)
        assert ours.shape == (3, 6)
        torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["number", "scalar", "one"])
def test_one_score_per_call_explains_the_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, present = torch.randn(3, 5), draw_coalitions(30, 5, generator(4))
    monkeypatch.setattr(kernel_shap, "design", lambda *_: drawn(present))

    def forward(rows: Tensor) -> Any:
        score = interacting(rows).sum()
        return {"number": score.item(), "scalar": score, "one": score[None]}[kind]

    for inputs in (x, x[:1]):
        for shaped in (True, False):
            ours = fastsal.KernelShap(forward).attribute(inputs, n_samples=30, return_input_shape=shaped)
            theirs = captum_on(forward, present, inputs, return_input_shape=shaped)
            assert ours.shape == theirs.shape == (1, 5)
            torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="perturbations_per_eval: "):
        fastsal.KernelShap(forward).attribute(x, n_samples=30, perturbations_per_eval=4)


def test_dtypes_of_inputs_and_scores() -> None:
    table = nn.Embedding(20, 3)
    tokens = torch.randint(1, 20, (2, 6))
    found = fastsal.KernelShap(lambda ids: table(ids).sum(1)).attribute(tokens, target=1, n_samples=40)
    assert found.dtype == torch.float32
    expected = table(tokens)[..., 1] - table.weight[0, 1]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model, x = nn.Linear(4, 2).to(dtype), torch.randn(2, 4).to(dtype)
        found = fastsal.KernelShap(model).attribute(x, target=1, n_samples=40)
        assert found.dtype == dtype
        rounding = torch.finfo(dtype).eps
        expected = (model.weight[1] * x).detach()
        torch.testing.assert_close(found, expected, rtol=0, atol=20 * rounding)
    counts = fastsal.KernelShap(lambda rows: (rows > 0).sum(1)).attribute(torch.ones(1, 4), n_samples=40)
    torch.testing.assert_close(counts, torch.ones(1, 4))


def test_features_that_are_numbered_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 5)
    options: dict[str, Any] = {"n_samples": 100, "seed": 1}
    plain = fastsal.KernelShap(interacting).attribute(x, **options)
    with pytest.warns(UserWarning, match="feature_mask: the first feature is 3"):
        shifted = fastsal.KernelShap(interacting).attribute(x, feature_mask=torch.arange(3, 8)[None], **options)
    assert torch.equal(plain, shifted)
    # An id that nothing has is a feature without effect.
    found = fastsal.KernelShap(lambda rows: rows.sum(1)).attribute(
        x, feature_mask=torch.tensor([[0, 0, 2, 4, 5]]), return_input_shape=False, **options
    )
    expected = torch.tensor([float(x[0, :2].sum()), 0.0, *x[0, 2:3].tolist(), 0.0, *x[0, 3:].tolist()])
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-6)


def test_one_score_that_is_not_a_number_is_in_its_example_alone() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, torch.inf, 3.0]])
    found = fastsal.KernelShap(lambda rows: rows.sum(1)).attribute(x, n_samples=20)
    torch.testing.assert_close(found[0], x[0])
    assert found[1].isnan().all()


def test_the_model_and_the_inputs_stay() -> None:
    model, x = small().train(), image(size=4).requires_grad_()
    explainer = fastsal.KernelShap(model)
    mask = torch.arange(20).reshape(4, 5)
    with unchanged(model, x):
        first = explainer.attribute(x, target=1, feature_mask=mask, seed=1)
        with torch.inference_mode():
            inside = explainer.attribute(x.clone(), target=1, feature_mask=mask, seed=1)
    torch.testing.assert_close(first, inside)
    calls = 0

    def fails(rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise KeyError("no")
        return model(rows.mul_(2))

    with unchanged(model, x), pytest.raises(KeyError):
        fastsal.KernelShap(fails).attribute(x, target=1, feature_mask=mask, perturbations_per_eval=2)


def test_memory_does_not_grow_with_the_samples() -> None:
    model, x, peaks = small(), image(batch=1, size=32), []
    mask = torch.arange(32 * 33).reshape(32, 33) // 66
    for n_samples in (60, 300):
        with PeakBytes() as peak:
            fastsal.KernelShap(model).attribute(
                x, target=1, feature_mask=mask, n_samples=n_samples, perturbations_per_eval=10
            )
        peaks.append(peak.peak)
    # The coalitions and the fit: some numbers of 8 bytes for each of 16 features and 300 samples.
    assert peaks[1] < peaks[0] + 300 * 16 * 8 * 8


def test_refusals_name_the_argument() -> None:
    model, x = small(), image(size=4)
    explainer = fastsal.KernelShap(model)
    cases: list[tuple[str, type[Exception], Any, dict[str, Any]]] = [
        ("n_samples", ValueError, x, {"target": 1, "n_samples": 1}),
        ("perturbations_per_eval", ValueError, x, {"target": 1, "perturbations_per_eval": 0}),
        ("target", ValueError, x, {}),
        ("target", ValueError, x[:1], {}),
        ("target", ValueError, x, {"target": 9}),
        ("target", TypeError, x, {"target": lambda output: 1}),
        ("feature_mask", TypeError, x, {"target": 1, "feature_mask": torch.rand(4, 5)}),
        ("feature_mask", ValueError, x, {"target": 1, "feature_mask": torch.zeros(4, 4, dtype=torch.long)}),
        ("baselines", TypeError, x, {"target": 1, "baselines": "zero"}),
        ("seed", TypeError, x, {"target": 1, "seed": "one"}),
        ("inputs", TypeError, [x], {"target": 1}),
    ]
    for name, kind, inputs, options in cases:
        with pytest.raises(kind, match=f"{name}: "):
            explainer.attribute(inputs, **options)
