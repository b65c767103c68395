"""LRP of forms of model that Captum does not take."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.explainers.lrp.rules import (
    EpsilonRule,
    GammaRule,
    IdentityRule,
)
from tests.compat.lrp_networks import CLOSE, NAMES, Net, jacobian_rule, net, picture, relevance, score
from tests.explainers.networks import Functional, image, small


class Written(nn.Module):
    """A :class:`Net` with functions and operators, its modules' weights alone."""

    def __init__(self, net: Net, in_place: bool) -> None:
        super().__init__()
        self.net, self.in_place = net, in_place

    def forward(self, x: Tensor) -> Tensor:
        def norm(x: Tensor, m: Any) -> Tensor:
            return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias)

        x = F.relu(norm(F.conv2d(x, self.net.conv1.weight, self.net.conv1.bias, padding=1), self.net.norm1))
        x = F.max_pool2d(x, 2)
        residual = norm(F.conv2d(x, self.net.conv2.weight, padding=1), self.net.norm2)
        if self.in_place:
            residual += x
            x = residual.relu_()
        else:
            x = torch.relu(x + residual)
        x = F.adaptive_avg_pool2d(F.avg_pool2d(x, 2, 1), 2)
        x = F.linear(x.reshape(len(x), -1), self.net.fc1.weight, self.net.fc1.bias)
        return x.tanh() @ self.net.fc2.weight.t() + self.net.fc2.bias


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("composite", [None, *NAMES])
def test_functions_and_operators_are_as_modules(composite: str | None, in_place: bool) -> None:
    model, x = net(), picture()
    found = relevance(Written(model, in_place), x, composite=composite)
    # The last product's bias is another summand here, where a composite's own epsilon applies: 1e-6.
    torch.testing.assert_close(found, relevance(model, x, composite=composite), rtol=1e-4, atol=1e-7)


def test_modules_used_twice_are_as_copies() -> None:
    class Twice(nn.Module):
        def __init__(self, first: nn.Module, second: nn.Module) -> None:
            super().__init__()
            self.first, self.second, self.head = first, second, head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(torch.relu(self.first(x))))

    torch.manual_seed(0)
    head, layer, x = nn.Linear(4, 3).double(), nn.Linear(4, 4).double(), torch.randn(5, 4).double()
    layer.rule = GammaRule()
    expected = relevance(Twice(layer, copy.deepcopy(layer)), x)
    torch.testing.assert_close(relevance(Twice(layer, layer), x), expected, **CLOSE)


def test_concatenation_routes_and_sums_share() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    head, x = nn.Linear(6, 2).double(), torch.randn(3, 4).double()

    class Cat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return head(torch.cat([first(x), second(x)], 1))

    class Add(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            split = F.linear(first(x), head.weight[:, :3]), F.linear(second(x), head.weight[:, 3:])
            return split[0] + split[1] + head.bias

    model = Cat()
    expected = jacobian_rule(first, x, jacobian_rule(head, torch.cat([first(x), second(x)], 1), score(model, x))[:, :3])
    expected += jacobian_rule(
        second, x, jacobian_rule(head, torch.cat([first(x), second(x)], 1), score(model, x))[:, 3:]
    )
    torch.testing.assert_close(relevance(model, x), expected, **CLOSE)
    torch.testing.assert_close(relevance(Add(), x), expected, rtol=1e-6, atol=1e-8)


def test_values_that_the_model_overwrites() -> None:
    class Overwrites(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.next, self.in_place = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), in_place
            self.act = nn.Sigmoid()
            self.act.rule = EpsilonRule()

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.conv(x))
            pooled, after, twice = F.avg_pool2d(y, 2), self.next(y), y + y
            if self.in_place:
                y -= after
                y[:, :2] = twice[:, 2:]
                y[:, 1].mul_(2.0)
                F.relu(y, True)
                F.dropout(y, 0.5, True)  # not in place: the third argument is training
            else:
                y = torch.cat([twice[:, 2:], (y - after)[:, 2:]], 1)
                y = F.relu(torch.stack([y[:, 0], y[:, 1] * 2.0, y[:, 2], y[:, 3]], 1))
            return y.mean((2, 3)) + pooled.mean((2, 3)) + after.mean((2, 3))

    x = picture()
    for composite in (None, "epsilon-plus", "epsilon-gamma-box"):
        found, expected = (relevance(Overwrites(flag).double(), x, composite=composite) for flag in (True, False))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_exported_traced_parallel_and_compiled_models() -> None:
    model, x = small(dtype=torch.float64), image(dtype=torch.float64)
    expected = relevance(model, x)
    for form in (
        torch.export.export(model, (x,)).module(),
        torch.fx.symbolic_trace(model),
        nn.DataParallel(model),
        torch.compile(model, backend="eager"),
        Functional(model),
    ):
        torch.testing.assert_close(relevance(form, x), expected, **CLOSE)


def test_a_bare_layer_and_a_parametrised_one() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3).double(), torch.randn(2, 4).double()
    torch.testing.assert_close(relevance(layer, x), jacobian_rule(layer, x, score(layer, x)), **CLOSE)
    for rule in (EpsilonRule(0.1), GammaRule(), IdentityRule()):
        plain = nn.Linear(4, 4).double()
        normed = nn.utils.parametrizations.weight_norm(copy.deepcopy(plain))
        plain.rule = normed.rule = rule
        torch.testing.assert_close(relevance(normed, x), relevance(plain, x), **CLOSE)


def test_gated_and_normalised_models_under_given_rules() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.gate, self.norm = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x: Tensor, gated: bool = True) -> Tensor:
            x = self.conv(x)
            if gated:
                x = torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None] * x
                x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return x.mean((2, 3))

    model, x = Gated().double(), picture()
    with pytest.raises(TypeError, match="mul: LRP has no rule for it with 2 input"):
        relevance(model, x)
    with pytest.raises(TypeError, match=r"layer_norm: LRP has no rule.*composite=\{'layer_norm': IdentityRule"):
        relevance(model, x, composite={"mul": IdentityRule(source=1)})
    rules = {"mul": IdentityRule(source=1), nn.LayerNorm: IdentityRule()}
    found = relevance(model, x, composite=rules)
    # With identity rules on gate and norm, relevance is shared by the mean's output alone, then by the convolution.
    total = model(x)[:, 1].detach()
    before_mean = model.norm(
        (torch.sigmoid(model.gate(model.conv(x).mean((2, 3))))[:, :, None, None] * model.conv(x)).permute(0, 2, 3, 1)
    )[..., 1].detach()
    share = before_mean / before_mean.sum((1, 2), keepdim=True) * total[:, None, None]
    weight, bias = model.conv.weight[1, :, 0, 0].detach(), model.conv.bias[1].detach()
    z = weight[:, None, None] * x
    torch.testing.assert_close(found, z * (share / (z.sum(1) + bias))[:, None], rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="IdentityRule: mul has 2 inputs that carry relevance; name one by source="):
        relevance(model, x, composite={**rules, "mul": IdentityRule()})
