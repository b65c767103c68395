"""FullGrad of models that run convolutions in other ways: checkpointed, exported, as functions, in TorchScript."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastsal
from fastsal.compat import grad_cam
from tests.explainers.networks import Small, image, small, unchanged


class Saving(nn.Module):
    """A :class:`Small` whose middle is checkpointed."""

    def __init__(self, like: Small, reentrant: bool = False) -> None:
        super().__init__()
        self.like, self.reentrant = like, reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.like.act(self.like.norm(self.like.stem(x)))
        x = checkpoint(self.like.body, x, use_reentrant=self.reentrant)
        return self.like.head(self.like.last(x).flatten(2).mean(2))


class Plain(nn.Module):
    """A :class:`Small` without its modules' calls: what they compute as functions of its parameters."""

    def __init__(self, like: Small) -> None:
        super().__init__()
        self.like = like

    def forward(self, x: Tensor) -> Tensor:
        stem, norm, body, head = self.like.stem, self.like.norm, self.like.body, self.like.head
        x = torch.conv2d(x, stem.weight, stem.bias, padding=1)
        running = norm.running_mean, norm.running_var
        x = torch.batch_norm(x, norm.weight, norm.bias, *running, False, 0.1, norm.eps, False)
        x = F.relu(F.conv2d(F.relu(x), body.weight, body.bias, stride=2, padding=1))
        return F.linear(x.mean((2, 3)), head.weight, head.bias)


class NormAct(nn.BatchNorm2d):
    """A batch normalisation with its activation inside, as timm has them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def merged() -> tuple[nn.Module, nn.Module]:
    """The same network with its normalisation's activation inside and behind it."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)]
    norm = layers[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean.normal_()
    norm.bias.data.normal_()
    inside = NormAct(4)
    inside.load_state_dict(norm.state_dict())
    return nn.Sequential(*layers).eval(), nn.Sequential(layers[0], inside, *layers[3:]).eval()


def ours(model: Any, x: Tensor) -> Tensor:
    return fastsal.FullGrad(model).attribute(x, target=1)


def theirs(model: Any, x: Tensor) -> Tensor:
    """pytorch-grad-cam's form."""
    targets = [grad_cam.utils.model_targets.ClassifierOutputTarget(1)] * len(x)
    return torch.from_numpy(grad_cam.FullGrad(model, [])(x, targets))


def exported(model: nn.Module, decomposed: bool) -> nn.Module:
    program = torch.export.export(model, (image(),))
    return (program.run_decompositions() if decomposed else program).module()


@pytest.mark.parametrize("form", [ours, theirs])
@pytest.mark.parametrize("kind", ["checkpointed", "functions", "exported", "decomposed", "in a function"])
def test_the_plain_models_map(kind: str, form: Callable[[Any, Tensor], Tensor]) -> None:
    model, x = small(), image()
    other: Any = {
        "checkpointed": lambda: Saving(model),
        "functions": lambda: Plain(model),
        "exported": lambda: exported(model, False),
        "decomposed": lambda: exported(model, True),
        "in a function": lambda: lambda z: model(z),
    }[kind]()
    expected = form(model, x)
    with unchanged(model, x):
        found = form(other, x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [ours, theirs])
def test_a_normalisation_with_its_activation_inside(form: Callable[[Any, Tensor], Tensor]) -> None:
    """The gradient is by what is normalised, not by what the module returns."""
    (apart, inside), x = merged(), image()
    torch.testing.assert_close(form(inside, x), form(apart, x))


def test_what_hides_its_biases_is_refused() -> None:
    model, x = small(), image()
    with pytest.raises(TypeError, match="forward_func: it has TorchScript parts, whose biases cannot be reached"):
        ours(torch.jit.trace(model, x), x)
    script = torch.jit.trace(lambda z: F.conv2d(z, torch.ones(2, 3, 3, 3), torch.ones(2)).mean((2, 3)), x)
    with pytest.raises(ValueError, match=r"forward_func: the biases behind Convolution.* cannot be reached"):
        ours(lambda z: script(z), x)
    with pytest.raises((RuntimeError, ValueError), match=r"use_reentrant=False|the biases behind CheckpointFunction"):
        ours(Saving(model, reentrant=True), x)


def test_a_model_without_convolutions_is_told() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), image()
    model(x)
    with pytest.warns(UserWarning, match="ran no convolution or batch normalisation"):
        found = ours(model, x)
    assert found.shape == (3, 1, 8, 9)
