"""Networks and helpers that the tests of LRP share."""

from __future__ import annotations

from typing import Any

import torch
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor, nn

import fastsal
from tests.explainers.networks import image

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


def relevance(model: nn.Module, inputs: Any, target: Any = 1, **options: Any) -> Tensor:
    found: Tensor = fastsal.LRP(model).attribute(inputs, target, **options)
    return found


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
