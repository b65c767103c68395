"""What LRP refuses, and how it says so."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastsal
from fastsal.explainers.lrp.rules import (
    AlphaBetaRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    IdentityRule,
)
from tests.compat.lrp_networks import jacobian_rule, net, picture, relevance, score


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


def linear_then(function: Callable[[Tensor], Tensor]) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.layer(x))

    return Model()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.softmax(1), r"softmax: LRP has no rule.*composite=\{'softmax': IdentityRule\(\)\}"),
        (nn.LogSoftmax(1), "log_softmax: LRP has no rule"),
        (nn.LayerNorm(4), "layer_norm: LRP has no rule"),
        (lambda x: x * x.sigmoid(), r"mul: LRP has no rule.*2 input.*IdentityRule\(source=0\)"),
        (lambda x: x * x, "mul: LRP has no rule"),
        (lambda x: x @ x.T, "matmul: LRP has no rule"),
        (lambda x: x / x.sum(1, keepdim=True), "div: LRP has no rule"),
        (lambda x: x**2, "pow: LRP has no rule"),
        (lambda x: x.exp_(), "exp: LRP has no rule"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm: it normalises by the batch itself"),
        (lambda x: nn.MultiheadAttention(4, 2)(x, x, x)[0], "multi_head_attention_forward: LRP has no rule"),
        (lambda x: nn.LSTM(4, 4)(x)[0], "lstm: LRP has no rule"),
        (Doubled.apply, "DoubledBackward ran where no rule could reach it"),
    ],
    ids=[
        "softmax",
        "log-softmax",
        "layer-norm",
        "gate",
        "square",
        "product",
        "quotient",
        "power",
        "in-place",
        "batch-statistics",
        "attention",
        "lstm",
        "own-function",
    ],
)
def test_functions_without_a_rule_are_refused(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        relevance(linear_then(function), torch.randn(2, 4))


def test_what_the_model_computes_from_no_input_needs_no_rule() -> None:
    torch.manual_seed(0)
    scale = nn.Parameter(torch.rand(4) + 0.5)

    def constants(x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = x.softmax(1)
        return x * gate * scale.softmax(0).exp() + torch.zeros_like(x) + x.detach().softmax(1) * 0

    x = torch.randn(2, 4)
    model = linear_then(constants)
    weights = model.layer(x).softmax(1).detach() * scale.softmax(0).exp().detach()
    expected = jacobian_rule(model.layer, x, score(model, x))
    assert weights.shape == expected.shape
    torch.testing.assert_close(relevance(model, x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("composite", "error", "message"),
    [
        ("epsilon-minus", ValueError, "composite: 'epsilon-minus' is none of epsilon, epsilon-plus"),
        (3, TypeError, "composite: int is no name, Composite, mapping or function"),
        ({"conv9": EpsilonRule()}, ValueError, "composite: 'conv9' is neither a module of the model nor a function"),
        ({"conv1": "gamma"}, TypeError, "composite: conv1: str is not a PropagationRule"),
        ({3: EpsilonRule()}, TypeError, "composite: the key 3 is no module name, type or function name"),
        ({nn.Tanh: FlatRule()}, TypeError, "takes weights apart, which needs a linear or convolutional layer"),
        ({"tanh": AlphaBetaRule()}, TypeError, "takes weights apart"),
        ({"conv1": IdentityRule()}, ValueError, "the rule needs equal shapes"),
        ({"conv2d": IdentityRule(3)}, ValueError, "IdentityRule: conv2 .Conv2d. has 1 inputs"),
    ],
    ids=["name", "kind", "key", "rule", "key-kind", "type", "splits", "identity", "source"],
)
def test_composites_that_are_refused(composite: Any, error: type[Exception], message: str) -> None:
    model = net()
    model.conv2 = nn.Conv2d(5, 5, 3, padding=1).double()
    with pytest.raises(error, match=message):
        relevance(model, picture(), composite=composite)


def test_rules_and_models_that_are_refused() -> None:
    model = net()
    model.conv1.rule = "epsilon"
    with pytest.raises(TypeError, match="rule of module 'conv1': str is not a PropagationRule"):
        fastsal.LRP(model)
    with pytest.raises(TypeError, match="model: function is not"):
        fastsal.LRP(lambda x: x)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(nn.Linear(2, 2), torch.randn(1, 2))
    with pytest.raises(TypeError, match="TorchScript"):
        fastsal.LRP(nn.Sequential(scripted))
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    relevance(tied, torch.randn(2, 3))
    tied[1].rule = GammaRule()
    with pytest.raises(ValueError, match="share a weight, but not the rule"):
        relevance(tied, torch.randn(2, 3))
    with pytest.raises(TypeError, match="has no gradient"):
        relevance(net(), torch.ones(1, 3, 8, 8, dtype=torch.int64))
    for arguments in ((2, 2), (1, -1), (0.5, 0.5)):
        with pytest.raises(ValueError, match="do not conserve relevance"):
            AlphaBetaRule(*arguments)
    with pytest.raises(ValueError, match="epsilon: -1 is not 0 or more"):
        EpsilonRule(-1)
    with pytest.raises(ValueError, match="gamma: nan is not 0 or more"):
        GammaRule(float("nan"))


def test_the_advice_of_a_refusal_can_be_followed() -> None:
    """What the message names is importable where it says, and goes where it says."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) * self.gate(x).sigmoid()

    torch.manual_seed(0)
    model, x = Gated().double(), torch.randn(2, 4).double()
    with pytest.raises(TypeError, match="LRP has no rule for it") as caught:
        fastsal.LRP(model).attribute(x, 1)
    advice = re.search(r"as in (composite=\{.*?\}).*attribute\(\) takes composite, fastsal\.lrp has", str(caught.value))
    assert advice is not None
    known = {**vars(fastsal.lrp), "fastsal": fastsal, "model": model, "x": x}
    found = eval(f"fastsal.LRP(model).attribute(x, 1, {advice[1]})", known)
    # The signal takes all, so the gate's weights do not matter.
    expected = fastsal.LRP(model.first).attribute(x, 1) * model.gate(x).sigmoid()[:, 1:2].detach()
    torch.testing.assert_close(found, expected)
