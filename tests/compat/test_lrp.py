"""LRP gives Captum 0.9.0's numbers where Captum has a rule."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum import attr
from captum.attr._utils import lrp_rules as captum_rules
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor, nn

import fastsal
from fastsal.explainers.lrp.rules import (
    Alpha1_Beta0_Rule,
    EpsilonRule,
    GammaRule,
    IdentityRule,
    PropagationRule,
)
from tests.compat.lrp_networks import CLOSE, net, picture, relevance

# (ours, Captum's) of the same options
RULES: dict[str, tuple[Callable[[], PropagationRule], Callable[[], Any]]] = {
    "epsilon": (lambda: EpsilonRule(), lambda: captum_rules.EpsilonRule()),
    "epsilon-0.25": (lambda: EpsilonRule(0.25), lambda: captum_rules.EpsilonRule(0.25)),
    "gamma": (lambda: GammaRule(), lambda: captum_rules.GammaRule()),
    "gamma-2-no-bias": (lambda: GammaRule(2.0, True), lambda: captum_rules.GammaRule(2.0, set_bias_to_zero=True)),
    "alpha1-beta0": (lambda: Alpha1_Beta0_Rule(), lambda: captum_rules.Alpha1_Beta0_Rule()),
    "alpha1-beta0-no-bias": (lambda: Alpha1_Beta0_Rule(True), lambda: captum_rules.Alpha1_Beta0_Rule(True)),
}


def both(
    model: nn.Module, inputs: Any, rules: dict[str, str] | None = None, own: bool = True, **options: Any
) -> tuple[Any, Any]:
    """((ours, delta), (Captum's, delta)) under rules by module name; ``own``: ours from our classes."""
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    for name, rule in (rules or {}).items():
        ours.get_submodule(name).rule = RULES[rule][0 if own else 1]()
        theirs.get_submodule(name).rule = RULES[rule][1]()
    found = fastsal.LRP(ours).attribute(inputs, return_convergence_delta=True, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = attr.LRP(theirs).attribute(inputs, return_convergence_delta=True, **options)
    return found, expected


def check(found: Any, expected: Any, **tolerance: float) -> None:
    assert isinstance(found[0], tuple) == isinstance(expected[0], tuple)
    for ours, theirs in zip(
        *[[*(part[0] if isinstance(part[0], tuple) else part[:1]), part[1]] for part in (found, expected)], strict=True
    ):
        assert not ours.requires_grad
        torch.testing.assert_close(ours, theirs.detach(), **(tolerance or CLOSE))


def test_arguments_of_captum_come_first_and_in_its_order() -> None:
    expected = list(inspect.signature(attr.LRP.attribute).parameters)
    found = inspect.signature(fastsal.LRP.attribute).parameters
    assert list(found)[: len(expected)] == expected
    assert all(found[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(found)[len(expected) :])
    assert list(inspect.signature(fastsal.LRP).parameters) == ["model"]
    for rule in (EpsilonRule, GammaRule, Alpha1_Beta0_Rule):
        theirs = inspect.signature(getattr(captum_rules, rule.__name__)).parameters
        assert {n: p.default for n, p in inspect.signature(rule).parameters.items()} == {
            n: p.default for n, p in theirs.items()
        }
    assert fastsal.LRP(net()).multiplies_by_inputs
    assert fastsal.LRP(net()).has_convergence_delta()
    assert hasattr(fastsal.LRP.attribute, "__wrapped__")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("target", [2, [0, 3, 1]], ids=str)
def test_default_rules(target: Any, in_place: bool) -> None:
    check(*both(net(in_place=in_place), picture(), target=target))


@pytest.mark.parametrize("dimensions", [1, 3])
def test_layers_that_captum_knows_by_a_set_rule_only(dimensions: int) -> None:
    named = ["conv1", "norm1", "conv2", "norm2", "pool2", "pool3"]
    check(*both(net(dimensions), picture(dimensions), dict.fromkeys(named, "epsilon"), target=1))


@pytest.mark.parametrize("own", [True, False], ids=["our-class", "captum-class"])
@pytest.mark.parametrize("rule", RULES)
def test_rules_set_on_layers(rule: str, own: bool) -> None:
    model = net()
    weights = ["conv1", "conv2", "fc1", "fc2"]
    check(*both(model, picture(), dict.fromkeys(weights, rule), own=own, target=1))
    check(*both(model, picture(), dict.fromkeys(["conv2", "add"], rule), own=own, target=1))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_set_on_every_module(rule: str) -> None:
    """The usual loop, which also meets pooling, ReLU (where it has no effect) and batch normalisation."""
    model = net()
    every = [name for name, module in model.named_modules() if name]
    check(*both(model, picture(), dict.fromkeys(every, rule), target=1))


def test_identity_rule_on_batch_norm_and_sigmoid() -> None:
    model = net()
    model.tanh = nn.Sigmoid()
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    for name in ("norm1", "norm2", "tanh"):
        ours.get_submodule(name).rule = IdentityRule()
        theirs.get_submodule(name).rule = captum_rules.IdentityRule()
    found = fastsal.LRP(ours).attribute(picture(), 1)
    torch.testing.assert_close(found, attr.LRP(theirs).attribute(picture(), 1).detach(), **CLOSE)
    # Sigmoid passes relevance by default; Captum has no default for it.
    del ours.tanh.rule
    torch.testing.assert_close(fastsal.LRP(ours).attribute(picture(), 1), found, rtol=0, atol=0)
    check(*both(model, picture(), {"tanh": "epsilon"}, target=1))


def test_float32() -> None:
    found, expected = both(net(dtype=torch.float32), picture().float(), target=1)
    check(found, expected, rtol=2e-4, atol=1e-6)


def test_inputs_in_a_tuple_and_additional_arguments() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.add, self.head = (
                nn.Linear(4, 6),
                nn.Linear(5, 6),
                Addition_Module(),
                nn.Linear(6, 3),
            )

        def forward(self, a: Tensor, b: Tensor, power: int = 0) -> Tensor:
            hidden = self.add(self.first(a), self.second(b))
            return self.head(torch.relu(hidden) if power else hidden)

    torch.manual_seed(0)
    model, pair = Sum().double(), (torch.randn(3, 4).double(), torch.randn(3, 5).double())
    check(*both(model, pair, target=[0, 2, 1]))
    check(*both(model, pair, target=1, additional_forward_args=(1,)))
    check(*both(nn.Sequential(nn.Linear(4, 2).double()), pair[:1], target=0))  # a tuple of one


def test_targets_beyond_two_dimensions_and_none() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    for target in ((1, 0, 1), [(1, 0, 1), (0, 1, 1), (0, 0, 2)]):
        check(*both(model, picture(), target=target))
    check(*both(nn.Sequential(nn.Linear(3, 1).double()), torch.randn(4, 3).double()))


def test_one_example_is_as_in_the_batch() -> None:
    model, x = net(), picture()
    torch.testing.assert_close(relevance(model, x[1:2]), relevance(model, x)[1:2], **CLOSE)
