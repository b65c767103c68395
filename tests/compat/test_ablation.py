"""FeatureAblation, FeaturePermutation and the Shapley values against Captum 0.9.0 and against their formulas."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

import fastsal
from tests.explainers.calls import segments
from tests.explainers.networks import PeakBytes, TwoInputs, image, small, unchanged

EXACT = {"rtol": 1e-10, "atol": 1e-12}
ROUNDED = {"rtol": 1e-5, "atol": 1e-6}
"""Captum's Shapley values are float32 whatever the model."""


def both(name: str, forward: Any, inputs: Any, **options: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(attr, name)(forward).attribute(inputs, **options)
    return getattr(fastsal, name)(forward).attribute(inputs, **options), theirs


def check(ours: Any, theirs: Any, **tolerance: float) -> None:
    assert isinstance(ours, tuple) == isinstance(theirs, tuple)
    for one, other in zip(*(v if isinstance(v, tuple) else (v,) for v in (ours, theirs)), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other.to(one.dtype), **(tolerance or EXACT))


EXACT_METHODS = ["FeatureAblation", "ShapleyValues"]
TARGETS: list[Any] = [1, -1, (2,), torch.tensor(1), torch.tensor([0, 3, 1]), [2, 0, 3], [(1,), (0,), (2,)]]


@pytest.mark.parametrize("name", EXACT_METHODS)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_forms_of_target(name: str, target: Any) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    ours, theirs = both(name, model, x, target=target, feature_mask=segments(x))
    assert ours.dtype == torch.float64
    check(ours, theirs, **(EXACT if name == "FeatureAblation" else ROUNDED))


BASELINES = {
    "none": None,
    "int": 1,
    "float": 0.25,
    "full": torch.full((3, 3, 8, 9), 0.5).double(),
    "one": torch.linspace(0, 1, 216).reshape(1, 3, 8, 9).double(),
    "broadcast": torch.tensor([0.1, 0.2, 0.3]).double().reshape(1, 3, 1, 1),
}


@pytest.mark.parametrize("name", EXACT_METHODS)
@pytest.mark.parametrize("kind", BASELINES)
def test_forms_of_baseline(name: str, kind: str) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options = {"target": 2, "baselines": BASELINES[kind], "feature_mask": segments(x)}
    if kind == "broadcast":
        expected = BASELINES["broadcast"].expand_as(x)
        check(
            getattr(fastsal, name)(model).attribute(x, **options),
            getattr(fastsal, name)(model).attribute(x, **{**options, "baselines": expected}),
        )
        return
    check(*both(name, model, x, **options), **(EXACT if name == "FeatureAblation" else ROUNDED))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ablation_of_every_element(dimensions: int) -> None:
    model = small(dimensions, dtype=torch.float64)
    x = image(dimensions, size=3, dtype=torch.float64)
    for size in (1, 7):
        check(*both("FeatureAblation", model, x, target=[1, 3, 0], perturbations_per_eval=size))


@pytest.mark.parametrize("size", [None, 1, 3, 1000])
@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValues", "ShapleyValueSampling", "FeaturePermutation"])
def test_any_number_at_a_time(name: str, size: int | None) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    options: dict[str, Any] = {"target": 1, "feature_mask": segments(x)}
    if name in ("ShapleyValueSampling", "FeaturePermutation"):
        options["seed"] = 3
    explainer = getattr(fastsal, name)(model)
    with unchanged(model, x):
        found = explainer.attribute(x, perturbations_per_eval=size, **options)
    torch.testing.assert_close(found, explainer.attribute(x, perturbations_per_eval=2, **options), **EXACT)


def test_masks_of_each_example_and_missing_features() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    rolled = torch.cat([segments(x).roll(i, -1) for i in range(3)])
    for mask in (rolled, segments(x) * 3 + 2, segments(x)[0, 0], segments(x).int()):
        check(*both("FeatureAblation", model, x, target=1, feature_mask=mask))
    check(*both("ShapleyValues", model, x, target=1, feature_mask=rolled), **ROUNDED)
    # A feature that no element has contributes nothing, and the others are as without it.
    for name in ("ShapleyValues", "ShapleyValueSampling"):
        options = {} if name == "ShapleyValues" else {"n_samples": 200, "seed": 0}
        gap = torch.where(segments(x) > 1, segments(x) + 1, segments(x))
        found = getattr(fastsal, name)(lambda z: z.flatten(1).sum(1)).attribute(x, feature_mask=gap, **options)
        plain = getattr(fastsal, name)(lambda z: z.flatten(1).sum(1)).attribute(x, feature_mask=segments(x), **options)
        torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("name", EXACT_METHODS)
def test_features_across_the_inputs(name: str) -> None:
    model, inputs = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
    first = torch.arange(3)[:, None].expand(1, 3, 4).contiguous()  # Captum views it
    tolerance = EXACT if name == "FeatureAblation" else ROUNDED
    for second in (torch.tensor([[3, 3, 4, 4, 4]]), torch.tensor([[0, 1, 1, 2, 2]]), torch.tensor([[2, 2, 3, 3, 3]])):
        for additional in (None, torch.randn(3, 8).double(), (torch.randn(3, 8).double(), 0.5)):
            options = {"target": [0, 1, 3], "feature_mask": (first, second), "additional_forward_args": additional}
            options["baselines"] = (0.5, torch.ones(1, 5).double())
            check(*both(name, model, inputs, **options), **tolerance)
    if name == "FeatureAblation":
        check(*both(name, model, inputs, target=1))
    alone = nn.Linear(5, 3).double()
    check(*both(name, alone, inputs[1:], target=1, feature_mask=(torch.tensor([[0, 1, 1, 2, 2]]),)), **tolerance)


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValues"])
def test_several_and_shared_outputs(name: str) -> None:
    model, x = small(dtype=torch.float64), image(batch=2, dtype=torch.float64)
    forwards: list[Callable[..., Any]] = [
        model,
        lambda z: model(z).sum(),
        lambda z: float(model(z).sum()),
        lambda z: model(z).sum(0),
        lambda z: model(z)[:, :1],
        lambda z: model(z).reshape(2 * (len(z) // 2), 2, 2),
    ]
    for forward in forwards:
        ours, theirs = both(name, forward, x, feature_mask=segments(x))
        check(ours, theirs, **(EXACT if name == "FeatureAblation" else ROUNDED))
    whole = fastsal.FeatureAblation(lambda z: int(model(z).sum() * 1e6)).attribute(x, feature_mask=segments(x))
    assert whole.dtype == torch.int64
    mask = torch.cat([segments(x), segments(x).flip(-1)])
    with pytest.raises(ValueError, match="feature_mask: the output is one for the whole batch"):
        getattr(fastsal, name)(lambda z: model(z).sum()).attribute(x, feature_mask=mask)


def test_integers_text_and_tables() -> None:
    tokens, table = torch.randint(1, 9, (3, 6)), nn.Embedding(9, 4).double()

    def forward(indices: Tensor) -> Tensor:
        assert indices.dtype == torch.int64
        return table(indices).tanh().sum(1)

    for name in EXACT_METHODS:
        for baselines in (None, 2, torch.arange(6)[None]):
            ours, theirs = both(name, forward, tokens, target=1, baselines=baselines)
            check(ours, theirs, **(EXACT if name == "FeatureAblation" else ROUNDED))
    large = torch.full((1, 2), 2**53 + 1)
    assert not fastsal.FeatureAblation(lambda b: (b % 2).double()).attribute(large, 2**53 + 1, target=0).any()
    empty = (torch.randn(3, 4), torch.zeros(3, 0))
    found = fastsal.FeatureAblation(lambda a, b: a.sum(1) + b.sum(1)).attribute(empty)
    torch.testing.assert_close(found[0], empty[0])
    assert found[1].shape == (3, 0)
    scores = torch.randn(3, 2)
    assert not fastsal.FeatureAblation(lambda: scores).attribute(tokens, target=1).any()


def test_permutation_takes_the_feature_from_other_examples() -> None:
    x = torch.arange(12.0).reshape(6, 2) + 1
    found = fastsal.FeaturePermutation(lambda z: z[:, 0] * 100 + z[:, 1]).attribute(x, seed=2)
    taken = x - found / torch.tensor([100.0, 1.0])
    for column in range(2):
        assert sorted(taken[:, column].round().tolist()) == x[:, column].tolist()
        assert not torch.equal(taken[:, column].round(), x[:, column])
    two = x[:2]
    for seed in range(8):  # with two examples there is one order beside their own
        found = fastsal.FeaturePermutation(lambda z: z[:, 0]).attribute(two, seed=seed)
        torch.testing.assert_close(found[:, 0], two[:, 0] - two.flip(0)[:, 0])


def test_permutation_by_the_users_function_is_captums() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)

    def roll(z: Tensor, mask: Tensor) -> Tensor:
        assert mask.dtype == torch.bool
        return torch.where(mask, z.roll(1, 0), z)

    for size in (1, 3):
        options = {"target": [1, 3, 0], "feature_mask": segments(x), "perturbations_per_eval": size}
        theirs = attr.FeaturePermutation(model, roll).attribute(x, **options)
        check(fastsal.FeaturePermutation(model, roll).attribute(x, **options), theirs)
    inputs = torch.randn(3, 3, 4).double(), torch.randn(3, 5).double()
    masks = torch.zeros(1, 3, 4, dtype=torch.int64), torch.tensor([[0, 1, 1, 2, 2]])
    pair = TwoInputs().double().eval()
    theirs = attr.FeaturePermutation(pair, roll).attribute(inputs, target=1, feature_mask=masks)
    check(fastsal.FeaturePermutation(pair, roll).attribute(inputs, target=1, feature_mask=masks), theirs)


@pytest.mark.slow
def test_permutation_has_captums_mean() -> None:
    """Of f = x0 x1 over random orders without fixed identity; 400 runs of each, within 5 standard errors."""
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    runs: dict[str, list[Tensor]] = {"ours": [], "theirs": []}
    for seed in range(400):
        runs["ours"].append(fastsal.FeaturePermutation(lambda z: z.prod(1)).attribute(x, seed=seed))
        torch.manual_seed(seed)
        runs["theirs"].append(attr.FeaturePermutation(lambda z: z.prod(1)).attribute(x))
    ours, theirs = (torch.stack(found) for found in runs.values())
    error = ((ours.var(0) + theirs.var(0)) / 400).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 5 * error).all()


def by_subsets(game: Callable[[tuple[int, ...]], float], players: int) -> list[float]:
    """Shapley's formula, one subset at a time."""
    values = []
    for player in range(players):
        others = [p for p in range(players) if p != player]
        total = 0.0
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for chosen in itertools.combinations(others, size):
                total += weight * (game((*chosen, player)) - game(chosen))
        values.append(total)
    return values


def product(z: Tensor) -> Tensor:
    return z[:, 0] * z[:, 1] + z[:, 2] ** 2 * z[:, 3] + z[:, 1]


def test_shapley_values_are_shapleys_formula() -> None:
    x = torch.tensor([[0.5, -1.0, 2.0, 1.5]], dtype=torch.float64)
    start = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)

    def game(present: tuple[int, ...]) -> float:
        z = start.clone()
        z[0, list(present)] = x[0, list(present)]
        return product(z).item()

    expected = torch.tensor([by_subsets(game, 4)], dtype=torch.float64)
    torch.testing.assert_close(fastsal.ShapleyValues(product).attribute(x, start), expected, **EXACT)
    found = fastsal.ShapleyValueSampling(product).attribute(x, start, n_samples=3000, seed=0)
    spread = torch.stack(
        [fastsal.ShapleyValueSampling(product).attribute(x, start, n_samples=1, seed=i) for i in range(200)]
    ).std(0)
    assert ((found - expected).abs() <= 5 * spread / 3000**0.5).all()


@pytest.mark.parametrize("samples", [1, 4])
def test_sampled_values_add_up_and_are_exact_for_sums(samples: int) -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    found = fastsal.ShapleyValueSampling(model).attribute(
        x, 0.1, [1, 3, 0], feature_mask=segments(x), n_samples=samples, seed=1
    )
    each = torch.stack([found[:, 0][:, segments(x)[0, 0] == i][:, 0] for i in range(4)]).sum(0)
    change = (model(x) - model(torch.full_like(x, 0.1)))[torch.arange(3), torch.tensor([1, 3, 0])]
    torch.testing.assert_close(each, change.detach(), **EXACT)
    weight = torch.randn(216, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    linear = fastsal.ShapleyValueSampling(lambda z: z.flatten(1) @ weight)
    found = linear.attribute(x, n_samples=samples)
    torch.testing.assert_close(found, x * weight.reshape(3, 8, 9), rtol=1e-8, atol=1e-10)


def test_sampling_has_captums_mean() -> None:
    x = torch.tensor([[0.5, -1.0, 2.0, 1.5], [1.0, 2.0, -0.5, 0.3]], dtype=torch.float64)
    runs: dict[str, list[Tensor]] = {"ours": [], "theirs": []}
    for seed in range(60):
        runs["ours"].append(fastsal.ShapleyValueSampling(product).attribute(x, n_samples=5, seed=seed))
        torch.manual_seed(seed)
        runs["theirs"].append(attr.ShapleyValueSampling(product).attribute(x, n_samples=5).double())
    ours, theirs = (torch.stack(found) for found in runs.values())
    error = ((ours.var(0) + theirs.var(0)) / 60).sqrt() + 1e-6
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()


def test_each_coalition_is_scored_once() -> None:
    rows = 0

    def counting(z: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return product(z)

    x = torch.randn(3, 4)
    fastsal.FeatureAblation(counting).attribute(x)  # looks for what rows have to do with each other
    for name, options, expected in (
        ("ShapleyValues", {}, 2**4),
        ("FeatureAblation", {}, 4 + 1),
        ("ShapleyValueSampling", {"n_samples": 6}, 6 * 4 + 1),
        ("FeaturePermutation", {}, 4 + 1),
    ):
        for _ in range(2):  # the first looks at the last of so many copies too
            rows = 0
            getattr(fastsal, name)(counting).attribute(x, **options)
            assert rows in (3 * expected, 3 * (expected + 1))
        assert rows == 3 * expected


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValueSampling"])
def test_memory_does_not_grow_with_the_features(name: str) -> None:
    model, x = small(), image(batch=1, size=24)
    peaks = []
    for count in (8, 64):
        mask = (torch.arange(600) % count).reshape(1, 1, 24, 25)
        with PeakBytes() as peak:
            options = {"n_samples": 3} if name == "ShapleyValueSampling" else {}
            getattr(fastsal, name)(model).attribute(x, target=1, feature_mask=mask, perturbations_per_eval=4, **options)
        peaks.append(peak.peak)
    assert peaks[1] < 1.05 * peaks[0]


def test_refusals() -> None:
    x = torch.randn(3, 30)
    with pytest.raises(ValueError, match=r"feature_mask: 30 features have 2\^30 coalitions"):
        fastsal.ShapleyValues(lambda z: z.sum(1)).attribute(x)
    with pytest.raises(ValueError, match="n_samples: 0 is below 1"):
        fastsal.ShapleyValueSampling(lambda z: z.sum(1)).attribute(x, n_samples=0)
    for name in ("FeatureAblation", "FeaturePermutation", "ShapleyValueSampling", "ShapleyValues"):
        explainer = getattr(fastsal, name)(lambda z: z.sum(1))
        for mask, error, message in (
            (torch.zeros(4, dtype=torch.int64), ValueError, "feature_mask: shape"),
            (torch.full((30,), 0.5), TypeError, r"feature_mask: torch\.float32"),
            (-torch.ones(30, dtype=torch.int64), ValueError, "feature_mask: -1 is below 0"),
            ((torch.zeros(30).long(),) * 2, ValueError, "feature_mask: 2 given for 1"),
        ):
            with pytest.raises(error, match=message):
                explainer.attribute(x, feature_mask=mask)
        with pytest.raises(ValueError, match="perturbations_per_eval: 0 is below 1"):
            explainer.attribute(x, feature_mask=torch.arange(30) // 15, perturbations_per_eval=0)
        with pytest.raises(ValueError, match="perturbations_per_eval: the output has one score per call"):
            getattr(fastsal, name)(lambda z: z.sum()).attribute(
                x, feature_mask=torch.arange(30) // 15, perturbations_per_eval=2
            )
