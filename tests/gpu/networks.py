"""Networks that these tests run on the CPU and on the device, and what each method is asked."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import fastsal
from fastsal.explainers.registry import find, options
from tests.explainers.networks import image, small

CLASSES = 4
ITEMS = 12
COUNTS = ("n_steps", "n_masks", "n_samples", "nt_samples")


class Tokens(nn.Module):
    """A vision transformer of two blocks on patches of 4 x 4 with a class token."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        block = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        scores: Tensor = self.head(self.blocks(tokens)[:, 0])
        return scores


def network(method: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A network on the CPU that a method can explain, and its input."""
    if find(method).reads == "attention":
        torch.manual_seed(0)
        return Tokens().to(dtype).eval(), image(batch=2, size=16, dtype=dtype)[..., :16]
    return small(dtype=dtype), image(batch=2, size=16, dtype=dtype)


def moved(model: nn.Module, x: Tensor, device: torch.device) -> tuple[nn.Module, Tensor]:
    """A copy on the device."""
    return copy.deepcopy(model).to(device), x.to(device)


def chosen(method: str) -> dict[str, Any]:
    """Few items, always the same ones."""
    taken = options(method)
    given: dict[str, Any] = {name: ITEMS for name in COUNTS if name in taken}
    if "seed" in taken:
        given["seed"] = 0
    return given


def explained(method: str, model: nn.Module, x: Tensor, **more: Any) -> tuple[Tensor, ...]:
    """The maps of target 1."""
    found = fastsal.explain(model, x, method, target=1, **chosen(method), **more).maps[method]
    return found if isinstance(found, tuple) else (found,)


def same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    """Each within a share of the expected one's largest value."""
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        most = float(other.abs().max())
        torch.testing.assert_close(mine.cpu(), other.cpu(), rtol=0, atol=tolerance * max(most, 1e-30))
