"""Small networks and helpers that the tests of the explainers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import PeakBytes

__all__ = ["Functional", "PeakBytes", "Small", "TwoInputs", "image", "small", "state", "unchanged"]
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Small(nn.Module):
    """Two convolutions with BatchNorm, ReLU as a module and as a function, in place or not, and a linear head."""

    def __init__(self, dimensions: int = 2, classes: int = 4, in_place: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = CONV[dimensions](3, 5, 3, padding=1)
        self.norm = NORM[dimensions](5)
        self.act = nn.ReLU(inplace=in_place)
        self.body = CONV[dimensions](5, 6, 3, stride=2, padding=1)
        self.last = nn.ReLU(inplace=in_place)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = self.last(self.body(x))
        return self.head(self.drop(x.flatten(2).mean(2)))


class TwoInputs(nn.Module):
    """[B, 3, 4] and [B, 5] into [B, 4]; a scale as additional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(5, 8)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 4)

    def forward(self, a: Tensor, b: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        hidden = self.relu(self.first(a.flatten(1)) + self.second(b))
        if shift is not None:
            hidden = hidden + shift
        return scale * self.head(hidden.tanh())


class Functional(nn.Module):
    """The ReLUs of a :class:`Small` as functions and methods, in place where that is possible; weights shared."""

    def __init__(self, like: Small) -> None:
        super().__init__()
        self.like = like

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.like.norm(self.like.stem(x)), inplace=True)
        x = self.like.body(x).relu_()
        return self.like.head(torch.relu(x).flatten(2).mean(2))


def small(dimensions: int = 2, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> Small:
    """A :class:`Small` in evaluation mode with BatchNorm statistics that do something."""
    torch.manual_seed(seed)
    model = Small(dimensions, **options)
    model.norm.running_mean.normal_(std=0.1)
    model.norm.running_var.uniform_(0.5, 1.5)
    return model.to(dtype).eval()


def image(
    dimensions: int = 2, *, batch: int = 3, size: int = 8, seed: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *[size + i for i in range(dimensions)], generator=generator, dtype=dtype)


def state(model: nn.Module) -> dict[str, Any]:
    """All that an explainer could leave behind on a model."""
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [
            len(hooks)
            for module in model.modules()
            for name, hooks in sorted(vars(module).items())
            if name.endswith("_hooks") and hasattr(hooks, "__len__")
        ],
        "forward": ["forward" in vars(module) for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [parameter.grad is None for parameter in model.parameters()],
        "values": [tensor.clone() for tensor in model.state_dict().values()],
    }


@contextmanager
def unchanged(model: nn.Module, *tensors: Tensor) -> Iterator[None]:
    """The model and the caller's tensors are as before, also after an exception."""
    before, values = state(model), [tensor.clone() for tensor in tensors]
    flags = [(tensor.requires_grad, tensor.grad is None) for tensor in tensors]
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    try:
        yield
    finally:
        after = state(model)
        for name in before:
            if name != "values":
                assert after[name] == before[name], name
        assert all(map(torch.equal, after["values"], before["values"]))
        assert all(map(torch.equal, tensors, values))
        assert [(tensor.requires_grad, tensor.grad is None) for tensor in tensors] == flags
        assert torch.is_grad_enabled() == grad
        assert torch.is_inference_mode_enabled() == inference
