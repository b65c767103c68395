"""LRP gives Captum 0.9.0's numbers where Captum has a rule, and each rule's equation where it has none."""

from __future__ import annotations

import copy
import gc
import inspect
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum import attr
from captum.attr._utils import lrp_rules as captum_rules
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor, nn

import fastsal
from fastsal.explainers.lrp.composites import Composite
from fastsal.explainers.lrp.rules import (
    Alpha1_Beta0_Rule,
    AlphaBetaRule,
    BoxRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    IdentityRule,
    PropagationRule,
    ZPlusRule,
)
from tests.explainers.networks import Functional, TwoInputs, image, small, unchanged

# Quotients by small z amplify the last bit, and Captum sums in another order.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
NAMES = [
    "epsilon",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-gamma-box",
    "epsilon-alpha2-beta1",
    "epsilon-alpha2-beta1-flat",
]
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class Net(nn.Module):
    """What Captum supports, each module used once: a residual network in one to three dimensions."""

    def __init__(self, dimensions: int = 2, in_place: bool = False) -> None:
        super().__init__()
        self.conv1 = CONV[dimensions](3, 5, 3, padding=1)
        self.norm1 = NORM[dimensions](5)
        self.relu1 = nn.ReLU(in_place)
        self.pool1 = MAX[dimensions](2)
        self.conv2 = CONV[dimensions](5, 5, 3, padding=1, bias=False)
        self.norm2 = NORM[dimensions](5)
        self.add = Addition_Module()
        self.relu2 = nn.ReLU(in_place)
        self.pool2 = MEAN[dimensions](2, 1)
        self.pool3 = ADAPTIVE[dimensions](2)
        self.drop = nn.Dropout(0.5)
        self.fc1 = nn.Linear(5 * 2**dimensions, 7)
        self.tanh = nn.Tanh()
        self.fc2 = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.norm1(self.conv1(x))))
        x = self.relu2(self.add(x, self.norm2(self.conv2(x))))
        x = self.drop(self.pool3(self.pool2(x)))
        return self.fc2(self.tanh(self.fc1(x.flatten(1))))


def net(dimensions: int = 2, *, seed: int = 0, dtype: torch.dtype = torch.float64, in_place: bool = False) -> Net:
    torch.manual_seed(seed)
    model = Net(dimensions, in_place).to(dtype).eval()
    for norm in (model.norm1, model.norm2):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    return model


def picture(dimensions: int = 2, **options: Any) -> Tensor:
    return image(dimensions, size=7, dtype=torch.float64, **options)


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


def relevance(model: nn.Module, inputs: Any, target: Any = 1, **options: Any) -> Tensor:
    found: Tensor = fastsal.LRP(model).attribute(inputs, target, **options)
    return found


# Captum's numbers


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


# Forms of model that Captum does not take


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


def score(model: nn.Module, x: Tensor, target: int = 1) -> Tensor:
    """The relevance that the output starts with."""
    out = model(x).detach()
    start = torch.zeros_like(out)
    start[:, target] = out[:, target]
    return start


def jacobian_rule(layer: nn.Linear, x: Tensor, after: Tensor) -> Tensor:
    """The epsilon rule, by its equation."""
    z = torch.einsum("bj,kj->bkj", x, layer.weight).detach()
    total = z.sum(2) + (0 if layer.bias is None else layer.bias.detach())
    return (z * (after / (total + 1e-9 * (2.0 * (total >= 0) - 1)))[:, :, None]).sum(1)


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


# The equations


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


# Conservation


class Residual(nn.Module):
    """A ResNet in small, with a projection on the second shortcut; tells the relevance that each stage receives."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.convs = nn.ModuleList([nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(4)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6) for _ in range(4)])
        self.shortcut = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 3, bias=bias)
        self.sums: list[Tensor] = []
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                module.running_var.uniform_(0.5, 1.5)
                if bias:
                    module.running_mean.normal_(std=0.1)
                    nn.init.normal_(module.bias, std=0.1)

    def watch(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda relevance: self.sums.append(relevance.flatten(1).sum(1)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.watch(self.stem(x)), 2)
        for i, shortcut in ((0, nn.Identity()), (2, self.shortcut)):
            y = F.relu(self.norms[i](self.convs[i](x)), inplace=True)
            y = self.norms[i + 1](self.convs[i + 1](y))
            y += shortcut(x)
            x = self.watch(F.relu(y, inplace=True))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("composite", ["epsilon-plus", "epsilon-plus-flat"])
def test_relevance_is_conserved_at_each_layer(composite: str) -> None:
    """Without biases z+ loses nothing: only epsilon = 1e-6 of sums, pooling and the head absorbs, 1e-6 / z each."""
    model, x = Residual(bias=False).double().eval(), picture()
    found, delta = fastsal.LRP(model).attribute(x, 1, return_convergence_delta=True, composite=composite)
    scores = model(x)[:, 1].detach()
    assert len(model.sums) == 3
    for received in model.sums:  # relevance starts from 1, and is scaled by the score at the end
        torch.testing.assert_close(received, torch.ones_like(received), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.flatten(1).sum(1), scores, rtol=1e-4, atol=0)
    torch.testing.assert_close(delta, scores - found.flatten(1).sum(1), **CLOSE)
    assert (found < 0).any()  # of negative weights in the head


@pytest.mark.parametrize("composite", [None, *NAMES])
def test_residual_networks_with_biases_lose_what_biases_take(composite: str | None) -> None:
    model, x = Residual(bias=True).double().eval(), picture()
    found, delta = fastsal.LRP(model).attribute(x, 1, return_convergence_delta=True, composite=composite)
    assert found.isfinite().all()
    torch.testing.assert_close(delta, model(x)[:, 1].detach() - found.flatten(1).sum(1), **CLOSE)
    explainer = fastsal.LRP(model)
    torch.testing.assert_close(explainer.compute_convergence_delta(found, model(x)[:, 1].detach()), delta, **CLOSE)


# The model and the caller's tensors


def test_nothing_is_written_not_even_for_a_moment() -> None:
    model, x = net(), picture()
    model.conv1.rule, model.fc1.rule, model.add.rule = GammaRule(), ZPlusRule(), EpsilonRule(0.1)
    model.tanh.rule = model.pool1.rule = IdentityRule.__new__(EpsilonRule)
    model.pool1.rule.__init__(0.1)
    rules = {name: vars(module).get("rule") for name, module in model.named_modules()}
    options = {name: dict(vars(rule)) for name, rule in rules.items() if rule is not None}
    model.train()
    versions = [tensor._version for tensor in (*model.parameters(), *model.buffers())]
    with unchanged(model, x):
        found = relevance(model, x, composite="epsilon-gamma-box")
    assert [tensor._version for tensor in (*model.parameters(), *model.buffers())] == versions
    assert {name: vars(module).get("rule") for name, module in model.named_modules()} == rules
    assert {name: dict(vars(rule)) for name, rule in rules.items() if rule is not None} == options
    torch.testing.assert_close(found, relevance(model.eval(), x, composite="epsilon-gamma-box"), rtol=0, atol=0)


@pytest.mark.parametrize("where", ["forward", "backward", "rule"])
def test_nothing_is_left_behind_by_an_exception(where: str) -> None:
    class Broken(EpsilonRule):
        def relevance(self, layer: Any, relevance: Tensor) -> tuple[Tensor, ...]:
            raise KeyError("the model's own error")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            self.inner.add.rule = Broken() if where == "rule" else EpsilonRule()

        def forward(self, x: Tensor) -> Tensor:
            out = self.inner(x)
            if where == "forward":
                raise KeyError("the model's own error")
            if where == "backward":
                out.register_hook(lambda gradient: {}["the model's own error"])
            return out

    model, x = Model().train(), picture()
    with unchanged(model, x), pytest.raises(KeyError, match="the model's own error"):
        relevance(model, x)
    assert isinstance(model.inner.add.rule, EpsilonRule)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_inside_every_gradient_mode(context: Any) -> None:
    model, x = net(), picture()
    model.add.rule = EpsilonRule(0.1)
    expected = relevance(model, x)
    with context():
        inside = x.clone()
        with unchanged(model, inside):
            torch.testing.assert_close(relevance(model, inside), expected, rtol=0, atol=0)
    leaf = x.clone().requires_grad_()
    with unchanged(model, leaf):
        torch.testing.assert_close(relevance(model, leaf), expected, rtol=0, atol=0)


def test_frozen_parameters() -> None:
    model, x = net(), picture()
    expected = relevance(model, x)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(relevance(model, x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("composite", [None, "epsilon-plus-flat", "epsilon-gamma-box"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)], ids=str)
def test_half_precision(dtype: torch.dtype, tolerance: float, composite: str | None) -> None:
    """Five roundings (1e-3 and 8e-3) against float32 with the same rounded weights; Captum's 1e-9 is 0 in float16.

    The median over nine examples, since the quotient by a z near 0, or another winner of max pooling, is another map.
    """
    errors = []
    for seed in range(3):
        model = net(seed=seed, dtype=torch.float32)
        model.tanh.rule = EpsilonRule()
        half, x = model.to(dtype), picture(seed=seed).to(dtype)
        found = relevance(half, x, composite=composite)
        assert found.dtype == dtype
        expected = relevance(copy.deepcopy(half).float(), x.float(), composite=composite).flatten(1)
        errors.append((found.float().flatten(1) - expected).norm(dim=1) / expected.norm(dim=1))
    assert torch.cat(errors).median() < tolerance


def test_relevance_of_an_image_survives_float16() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2, bias=False)), torch.rand(2, 3, 64, 64) + 0.5
    nn.init.uniform_(model[1].weight, 1e-4, 2e-4)
    found = relevance(copy.deepcopy(model).half(), x.half()).float()
    torch.testing.assert_close(found, relevance(model, x), rtol=1e-2, atol=0)


def test_no_part_of_a_run_is_kept() -> None:
    """Not even by a cycle: the model overwrites what the graph before it is made of."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid()
            self.act.rule = EpsilonRule()

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(x * 2.0)
            kept.append(weakref.ref(x))
            y = self.norm(self.conv(x))
            kept.append(weakref.ref(y))
            x += y
            return self.act(x.relu_()).mean((2, 3))

    model, kept = Model().eval(), []
    gc.disable()
    try:
        for composite in (None, "epsilon", "epsilon-gamma-box"):
            relevance(model, picture().float(), composite=composite)
        assert len(kept) == 6
        assert [reference() for reference in kept] == [None] * 6
    finally:
        gc.enable()


def test_inside_captums_noise_tunnel() -> None:
    model, x = net(), picture()
    tunnel = attr.NoiseTunnel(fastsal.LRP(model))
    found = tunnel.attribute(x, nt_samples=2, stdevs=0.0, target=1)
    torch.testing.assert_close(found.detach(), relevance(model, x), **CLOSE)


def test_autocast() -> None:
    model, x = net(dtype=torch.float32), picture().float()
    expected = relevance(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = relevance(model, x)
    assert found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 0.15


def test_costs_one_forward_pass() -> None:
    model, passes = net(), []
    model.conv1.register_forward_hook(lambda *_: passes.append(1))
    for composite in (None, *NAMES):
        passes.clear()
        relevance(model, picture(), composite=composite)
        assert len(passes) == 1


def test_scores_from_one_value_a_batch_and_inputs_without_influence() -> None:
    class Second(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return b * 2.0

    first, second = torch.randn(3, 2), torch.randn(3, 2)
    found = fastsal.LRP(Second()).attribute((first, second), 1)
    assert torch.equal(found[0], torch.zeros(3, 2))
    torch.testing.assert_close(found[1], torch.stack([torch.zeros(3), second[:, 1] * 2], 1))


def test_tuples_of_inputs_with_functions() -> None:
    torch.manual_seed(0)
    model, pair = TwoInputs().double().eval(), (torch.randn(3, 3, 4).double(), torch.randn(3, 5).double())
    (first, second), delta = fastsal.LRP(model).attribute(pair, [0, 1, 3], return_convergence_delta=True)
    assert first.shape == pair[0].shape
    total = first.flatten(1).sum(1) + second.sum(1)
    torch.testing.assert_close(delta, model(*pair).detach()[range(3), [0, 1, 3]] - total, **CLOSE)
    shifted = fastsal.LRP(model).attribute(pair, 1, (torch.zeros(3, 8).double(), 2.0))
    torch.testing.assert_close(shifted, tuple(2 * part for part in fastsal.LRP(model).attribute(pair, 1)))


# Refusals


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
