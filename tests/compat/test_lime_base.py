"""LimeBase: Captum 0.9.0's numbers from the same functions of the user, called as often and in the same order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from captum import attr
from captum._utils.models.linear_model import SkLearnLasso, SkLearnLinearModel
from torch import Tensor, nn

import fastsal
from fastsal.explainers.perturbation.surrogate.fits import Lasso
from tests.explainers.networks import TwoInputs, unchanged

CLOSE = {"rtol": 1e-5, "atol": 2e-6}


class Functions:
    """A user's functions, which note that they are called and with what."""

    def __init__(self, *, interpretable: bool, generates: bool = False, total: int = 6) -> None:
        self.calls: list[str] = []
        self.interpretable, self.total = interpretable, total
        self.random = torch.Generator().manual_seed(5)
        self.perturb = self.generate if generates else self.sample

    def sample(self, original: Any, **options: Any) -> Any:
        self.calls.append("perturb")
        assert options == {"width": 2.0}
        if self.interpretable:
            return torch.bernoulli(torch.full((1, self.total), 0.5), generator=self.random).long()
        parts = original if isinstance(original, tuple) else (original,)
        altered = tuple(p + torch.randn(p.shape, generator=self.random, dtype=p.dtype) for p in parts)
        return altered if isinstance(original, tuple) else altered[0]

    def generate(self, original: Any, **options: Any) -> Iterator[Any]:
        while True:
            yield self.sample(original, **options)

    def to_inputs(self, features: Tensor, original: Any, **options: Any) -> Any:
        self.calls.append("transform")
        assert options == {"width": 2.0}
        return original * features[:, : original.shape[1]] + 0.1

    def to_features(self, altered: Any, original: Any, **options: Any) -> Tensor:
        self.calls.append("transform")
        assert type(altered) is type(original)
        parts = altered if isinstance(altered, tuple) else (altered,)
        return torch.cat([part.flatten(1) for part in parts], 1)

    def similarity(self, original: Any, altered: Any, features: Tensor, **options: Any) -> Any:
        self.calls.append("similarity")
        parts = zip(original, altered, strict=True) if isinstance(original, tuple) else [(original, altered)]
        distance = sum(((a - b) ** 2).sum() for a, b in parts)
        return torch.exp(-distance / (20 * options["width"] ** 2))

    def arguments(self, model: Any) -> dict[str, Any]:
        return {
            "interpretable_model": model,
            "similarity_func": self.similarity,
            "perturb_func": self.perturb,
            "perturb_interpretable_space": self.interpretable,
            "from_interp_rep_transform": self.to_inputs if self.interpretable else None,
            "to_interp_rep_transform": None if self.interpretable else self.to_features,
        }


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


@pytest.mark.parametrize("count", [None, 1, 7])
@pytest.mark.parametrize("generates", [False, True])
@pytest.mark.parametrize("interpretable", [False, True])
def test_the_users_functions_give_captums_representation(
    interpretable: bool, generates: bool, count: int | None
) -> None:
    model, x, found, calls = network(), torch.randn(1, 6), [], []
    for package in (fastsal, attr):
        functions = Functions(interpretable=interpretable, generates=generates)
        explainer = package.LimeBase(model, **functions.arguments(SkLearnLinearModel("linear_model.Ridge")))
        options = {"perturbations_per_eval": count} if count else {}
        found.append(explainer.attribute(x, target=1, n_samples=40, width=2.0, **options))
        calls.append(functions.calls)
    torch.testing.assert_close(*found, **CLOSE)
    assert calls[0] == calls[1]


def test_several_inputs_and_additional_arguments() -> None:
    model, found = TwoInputs().eval(), []
    inputs = (torch.randn(1, 3, 4), torch.randn(1, 5))
    for package in (fastsal, attr):
        for count in (1, 8):
            functions = Functions(interpretable=False)
            explainer = package.LimeBase(model, **functions.arguments(SkLearnLinearModel("linear_model.Ridge")))
            found.append(
                explainer.attribute(inputs, 2, (torch.ones(1, 8), 0.7), 60, perturbations_per_eval=count, width=2.0)
            )
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-4, atol=1e-5)


def test_samples_of_different_lengths_are_run_by_length() -> None:
    """Deleted tokens, as in Captum's tutorial on text."""
    table, tokens, rows, found = nn.Embedding(30, 3), torch.randint(30, (1, 6)), [], []

    def forward(ids: Tensor) -> Tensor:
        rows.append(tuple(ids.shape))
        return table(ids).sum(1).tanh()

    def drop(features: Tensor, original: Tensor, **_options: Any) -> Tensor:
        return original[features.bool()].view(1, -1)

    for package, options in ((fastsal, {}), (attr, {}), (fastsal, {"perturbations_per_eval": 3})):
        random = torch.Generator().manual_seed(3)
        explainer = package.LimeBase(
            forward,
            SkLearnLasso(alpha=0.001),
            lambda original, altered, features, **_: float(features.sum() + 1),
            lambda original, random=random, **_: torch.bernoulli(torch.full((1, 6), 0.5), generator=random).long(),
            True,
            drop,
            None,
        )
        rows.clear()
        found.append(explainer.attribute(tokens, target=2, n_samples=50, **options))
        if package is fastsal and not options:
            assert sum(count for count, _ in rows) == 50 + 4  # three calls tell whether rows depend on each other
            assert len(rows) < 20
    torch.testing.assert_close(found[0], found[1], **CLOSE)
    torch.testing.assert_close(found[0], found[2], **CLOSE)


def test_one_score_per_call() -> None:
    model = network()

    def number(rows: Tensor) -> float:
        return float(model(rows).square().mean())

    for batch in (1, 3):
        x, found = torch.randn(batch, 6), []
        for package in (fastsal, attr):
            functions = Functions(interpretable=True)
            explainer = package.LimeBase(number, **functions.arguments(SkLearnLinearModel("linear_model.Ridge")))
            found.append(explainer.attribute(x, n_samples=30, width=2.0))
        torch.testing.assert_close(*found, **CLOSE)
    functions = Functions(interpretable=True)
    with pytest.raises(ValueError, match="perturbations_per_eval: "):
        fastsal.LimeBase(number, **functions.arguments(SkLearnLasso(alpha=0.1))).attribute(
            torch.randn(1, 6), perturbations_per_eval=5, width=2.0
        )


def test_a_generator_that_ends_early() -> None:
    def three(original: Tensor, **_options: Any) -> Iterator[Tensor]:
        for scale in (0.0, 0.5, 2.0):
            yield original * scale

    model, x, found = network(), torch.randn(1, 6), []
    for package in (fastsal, attr):
        explainer = package.LimeBase(
            model,
            SkLearnLinearModel("linear_model.Ridge"),
            lambda *_, **__: 1.0,
            three,
            False,
            None,
            lambda altered, original, **_: altered,
        )
        with pytest.warns(UserWarning, match="ended after 3 of 10|completed prior to"):
            found.append(explainer.attribute(x, target=1, n_samples=10))
    torch.testing.assert_close(*found, **CLOSE)


def test_the_model_stays_and_the_callers_generators_too() -> None:
    model, x = network().train(), torch.randn(1, 6, requires_grad=True)
    explainer = fastsal.LimeBase(model, **Functions(interpretable=True).arguments(Lasso(alpha=0.01)))
    state = torch.get_rng_state()
    with unchanged(model, x):
        found = explainer.attribute(x, target=1, width=2.0)
        with torch.inference_mode():
            explainer.attribute(x.detach().clone(), target=1, width=2.0)
    assert torch.equal(state, torch.get_rng_state())
    assert found.shape == (1, 6)
    assert not found.requires_grad
    assert (explainer.multiplies_by_inputs, explainer.has_convergence_delta()) == (False, False)


def test_refusals_name_the_argument() -> None:
    model, x, functions = network(), torch.randn(1, 6), Functions(interpretable=True)
    arguments = functions.arguments(SkLearnLasso(alpha=0.01))

    def explain(inputs: Any = x, make: dict[str, Any] | None = None, **options: Any) -> Callable[[], Any]:
        return lambda: fastsal.LimeBase(model, **{**arguments, **(make or {})}).attribute(
            inputs, **{"target": 1, "width": 2.0, **options}
        )

    empty = {"perturb_func": lambda original, **_: iter(())}
    flat = {"perturb_func": lambda original, **_: torch.ones(6)}
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("from_interp_rep_transform", explain(make={"from_interp_rep_transform": None})),
        ("to_interp_rep_transform", explain(make={"perturb_interpretable_space": False})),
        ("n_samples", explain(n_samples=0)),
        ("perturbations_per_eval", explain(x.repeat(2, 1), perturbations_per_eval=2)),
        ("target", explain(x.repeat(2, 1))),
        ("target", explain(target=None)),
        ("perturb_func", explain(make=empty)),
        ("perturb_func", explain(make=flat)),
    ]
    for name, call in cases:
        with pytest.raises(ValueError, match=f"{name}: "), warnings.catch_warnings():
            call()
