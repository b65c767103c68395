"""Models whose rows depend on each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.explainers.networks import small


class Nodes(nn.Module):
    """Rows are the nodes of a graph, whose edges are another argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden = hidden + torch.zeros_like(hidden).index_add(0, edges[1], hidden[edges[0]])
        found: Tensor = self.second(hidden.relu())
        return found


class Attending(nn.Module):
    """Rows are nodes that attend to all others, and no edges are needed."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.attention(x[None], x[None], x[None])[0][0])
        return found


class Scaled(nn.Module):
    """Of images that are scaled by something of the whole batch."""

    def __init__(self, scale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.scale = small(), scale

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(self.scale(x))
        return found


class Siamese(nn.Module):
    """The first half of the batch is compared with the second."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.net(x).chunk(2)
        distance = (first - second).square()
        return torch.cat([distance, distance])


class InTime(nn.Module):
    """A recurrent network whose rows are the steps of time."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.rnn(x)[0])
        return found


def peak(x: Tensor) -> Tensor:
    return x / x.max()


def standard(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


def batch_statistics() -> nn.Module:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4),
    )
    return nn.Sequential(*layers).eval()


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "maximum": lambda: Scaled(peak),
    "least": lambda: Scaled(lambda x: x / (x.abs().amax((1, 2, 3)).min() + 0.1)),
    "decibels": lambda: Scaled(lambda x: (x.abs() + 0.1).log() - (x.abs().amax() + 0.1).log()),
    "mean and deviation": lambda: Scaled(standard),
    "batch statistics": batch_statistics,
    "siamese": Siamese,
    "number of rows": lambda: Scaled(lambda x: x / len(x)),
    "neighbours": lambda: Scaled(lambda x: x - 0.5 * x.roll(1, 0)),
}
