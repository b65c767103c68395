"""Small networks that the explainers' tests share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolutions with batch norm, an in-place ReLU after the layer ``body``, a residual addition and a head."""

    def __init__(self, dimensions: int = 2, inplace: bool = True) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
        self.stem = nn.Sequential(conv(2, 6, 3, padding=1), norm(6), nn.ReLU(inplace=inplace))
        self.body = conv(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.down = conv(6, 8, 3, stride=2)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.relu(self.body(x))
        x = self.relu(self.down(x))
        return self.head(self.dropout(x.flatten(2).mean(2)))


class Functional(nn.Module):
    """The same kind of network with functional ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3)
        self.second = nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = self.second(x).relu_()
        return self.head(x.mean((2, 3)))


class Modular(nn.Module):
    """:class:`Functional` with modules for its ReLUs, sharing its weights."""

    def __init__(self, twin: Functional) -> None:
        super().__init__()
        self.body = nn.Sequential(twin.first, nn.ReLU(), twin.second, nn.ReLU(inplace=True))
        self.head = twin.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def residual(dimensions: int = 2, dtype: torch.dtype = torch.float64, inplace: bool = True) -> nn.Module:
    """A Residual in evaluation mode with statistics that are not the initial ones."""
    torch.manual_seed(3)
    model = Residual(dimensions, inplace)
    model(torch.randn(8, 2, *[8] * dimensions) * 2 + 0.5)
    return model.eval().to(dtype)
