"""Relevance is conserved, and LRP leaves the model and the caller's tensors as they were."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum import attr
from torch import Tensor, nn

import fastsal
from fastsal.explainers.lrp.rules import (
    EpsilonRule,
    GammaRule,
    IdentityRule,
    ZPlusRule,
)
from tests.compat.lrp_networks import CLOSE, NAMES, net, picture, relevance
from tests.explainers.networks import TwoInputs, unchanged


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
    with pytest.raises(ValueError, match=r"inputs\[0\]: the target does not depend on it"):
        fastsal.LRP(Second()).attribute((first, second), 1)
    with pytest.warns(UserWarning, match=r"inputs\[0\]: the target does not use it"):
        found = fastsal.LRP(Second()).attribute((first, second), 1, allow_unused=True)
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
