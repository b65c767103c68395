"""Each rule of LRP is its equation, and the composites give the layers the ones that they say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.explainers.lrp.composites import Composite
from fastsal.explainers.lrp.rules import (
    Alpha1_Beta0_Rule,
    AlphaBetaRule,
    BoxRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    PropagationRule,
    ZPlusRule,
)
from tests.compat.lrp_networks import CLOSE, NAMES, net, picture, relevance, score


def matrix(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(w [out, in], b [out]) of a linear map of one example."""
    zero = torch.zeros_like(x[:1])
    columns = torch.func.jacrev(lambda v: layer(v).flatten())(zero).flatten(1)
    return columns.detach(), layer(zero).flatten().detach()


def by_equation(rule: PropagationRule, w: Tensor, b: Tensor, x: Tensor, after: Tensor) -> Tensor:
    """R_j of one example from R_k, each equation written out over all pairs (k, j)."""
    c = w * x

    def share(parts: Tensor, total: Tensor) -> Tensor:
        return (
            parts
            * (after / torch.where(total < 0, total - rule.STABILITY_FACTOR, total + rule.STABILITY_FACTOR))[:, None]
        ).sum(0)

    if isinstance(rule, GammaRule):
        c = c + rule.gamma * w.clamp_min(0) * x
        return share(c, c.sum(1) + (0 if rule.set_bias_to_zero else b))
    if isinstance(rule, Alpha1_Beta0_Rule):
        c = w.clamp_min(0) * x
        return share(c, c.sum(1) + (0 if rule.set_bias_to_zero else b))
    if isinstance(rule, AlphaBetaRule):
        up, down = c.clamp_min(0), c.clamp_max(0)
        bias = torch.zeros_like(b) if rule.set_bias_to_zero else b
        return rule.alpha * share(up, up.sum(1) + bias.clamp_min(0)) - rule.beta * share(
            down, down.sum(1) + bias.clamp_max(0)
        )
    if isinstance(rule, FlatRule):
        connected = (w != 0).to(w)
        return share(connected, connected.sum(1))
    if isinstance(rule, BoxRule):
        low = x.min() if rule.low is None else rule.low
        high = x.max() if rule.high is None else rule.high
        c = c - low * w.clamp_min(0) - high * w.clamp_max(0)
        return share(c, c.sum(1))
    return share(c, c.sum(1) + b)


EQUATIONS = [
    EpsilonRule(),
    EpsilonRule(0.3),
    GammaRule(),
    GammaRule(0.5, True),
    Alpha1_Beta0_Rule(),
    Alpha1_Beta0_Rule(True),
    AlphaBetaRule(2, 1),
    AlphaBetaRule(3, 2, True),
    AlphaBetaRule(1, 0),
    ZPlusRule(),
    ZPlusRule(True),
    FlatRule(),
    BoxRule(),
    BoxRule(-2.0, 3.0),
]
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "linear-tokens": (lambda: nn.Linear(3, 4, bias=False), (2, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2), (2, 4, 5)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, dilation=2), (1, 4, 3, 3)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 3, 2)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("rule", EQUATIONS, ids=repr)
def test_each_rule_is_its_equation(rule: PropagationRule, kind: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make().double()
    x = torch.randn(2, *shape, dtype=torch.float64)
    layer.rule = rule
    model = nn.Sequential(layer, nn.Flatten())
    after = score(model, x)
    w, b = matrix(layer, x)
    expected = torch.stack([by_equation(rule, w, b, x[i].flatten(), after[i]) for i in range(2)]).view_as(x)
    torch.testing.assert_close(relevance(model, x), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rule", EQUATIONS, ids=repr)
def test_batch_norm_under_each_rule(rule: PropagationRule) -> None:
    """Captum's rules alter its weight, ours that take weights apart gamma / sigma."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 1.5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 4, dtype=torch.float64)
    after = score(norm, x)
    altered = copy.deepcopy(norm)
    if isinstance(rule, GammaRule):
        altered.weight.data += rule.gamma * altered.weight.data.clamp_min(0)
    if isinstance(rule, Alpha1_Beta0_Rule):
        altered.weight.data.clamp_min_(0)
    if getattr(rule, "set_bias_to_zero", False) and not rule.splits:
        altered.bias.data.zero_()
    w, b = matrix(altered, x)
    plain = rule if rule.splits else EpsilonRule(rule.STABILITY_FACTOR)
    expected = torch.stack([by_equation(plain, w, b, x[i], after[i]) for i in range(3)])
    norm.rule = rule
    torch.testing.assert_close(relevance(norm, x), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("composite", NAMES)
@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv_transpose2d", "linear"])
def test_merged_batch_norm_is_one_layer(kind: str, composite: str, bias: bool) -> None:
    torch.manual_seed(0)
    kinds: dict[str, Any] = {
        "conv1d": (nn.Conv1d(3, 4, 3, bias=bias), nn.BatchNorm1d(4), (3, 6)),
        "conv2d": (nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=False), (3, 6, 5)),
        "conv_transpose2d": (nn.ConvTranspose2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4), (3, 4, 5)),
        "linear": (nn.Linear(6, 4, bias=bias), nn.BatchNorm1d(4), (6,)),
    }
    layer, norm, shape = kinds[kind]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 1.5)
    layer, norm = layer.double().eval(), norm.double().eval()
    scale = (norm.running_var + norm.eps).rsqrt()
    fused = copy.deepcopy(layer)
    channel = [1, -1] if "transpose" in kind else [-1]
    fused.weight.data = layer.weight.data * scale.reshape(*channel, *[1] * (layer.weight.dim() - len(channel)))
    old = layer.bias.data if bias else 0.0
    fused.bias = nn.Parameter((old - norm.running_mean) * scale)
    tail = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.randn(2, *shape, dtype=torch.float64)
    model, expected = nn.Sequential(layer, norm, tail), nn.Sequential(fused, tail)
    torch.testing.assert_close(model(x), expected(x))
    torch.testing.assert_close(
        relevance(model, x, composite=composite), relevance(expected, x, composite=composite), rtol=1e-8, atol=1e-10
    )


def test_the_layers_of_a_named_composite(capsys: pytest.CaptureFixture[str]) -> None:
    relevance(net(), picture(), composite="epsilon-gamma-box", verbose=True)
    assert capsys.readouterr().out.splitlines() == [
        "conv1 (Conv2d): BoxRule(low=None, high=None)",
        "conv1 (Conv2d) + norm1 (BatchNorm2d): BoxRule(low=None, high=None)",
        "max_pool2d: EpsilonRule(epsilon=1e-06)",
        "conv2 (Conv2d): GammaRule(gamma=0.25, set_bias_to_zero=False)",
        "conv2 (Conv2d) + norm2 (BatchNorm2d): GammaRule(gamma=0.25, set_bias_to_zero=False)",
        "add: EpsilonRule(epsilon=1e-06)",
        "avg_pool2d: EpsilonRule(epsilon=1e-06)",
        "adaptive_avg_pool2d: EpsilonRule(epsilon=1e-06)",
        "fc1 (Linear): EpsilonRule(epsilon=1e-06)",
        "fc2 (Linear): EpsilonRule(epsilon=1e-06)",
    ]
    relevance(net(), picture())
    assert capsys.readouterr().out == ""


def test_each_layer_without_one_before_is_a_first_layer(capsys: pytest.CaptureFixture[str]) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b, self.c = (
                nn.BatchNorm2d(3).eval(),
                nn.Conv2d(3, 2, 1),
                nn.Conv2d(3, 2, 1),
                nn.Conv2d(2, 2, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            return self.c(torch.relu(self.a(x)) + self.b(F.avg_pool2d(x, 1))).mean((2, 3))

    relevance(Branches(), picture().float(), composite="epsilon-plus-flat", verbose=True)
    rules = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert rules["a (Conv2d)"] == rules["b (Conv2d)"] == "FlatRule()"
    assert rules["c (Conv2d)"] == "ZPlusRule(set_bias_to_zero=False)"
    assert rules["norm (BatchNorm2d)"] == "EpsilonRule(epsilon=1e-06)"


def test_rules_by_name_type_function_and_callable() -> None:
    model, x = net(), picture()
    model.conv2.rule = GammaRule(0.5)
    expected = copy.deepcopy(model)
    expected.conv1.rule, expected.fc1.rule, expected.pool2.rule = BoxRule(-3, 3), EpsilonRule(0.1), EpsilonRule(0.2)
    expected.fc2.rule = EpsilonRule(0.1)
    rules = {nn.Linear: EpsilonRule(0.1), "conv1": BoxRule(-3, 3), "avg_pool2d": EpsilonRule(0.2), "conv2": FlatRule()}
    found = relevance(model, x, composite=rules)
    torch.testing.assert_close(found, relevance(expected, x), **CLOSE)
    torch.testing.assert_close(relevance(model, x, composite=Composite(rules=rules)), found, rtol=0, atol=0)

    def choose(name: str, module: nn.Module | None) -> PropagationRule | None:
        return rules.get(name) or (rules[nn.Linear] if isinstance(module, nn.Linear) else None)

    torch.testing.assert_close(relevance(model, x, composite=choose), found, rtol=0, atol=0)
