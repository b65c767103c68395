"""Which scores are affine functions of a layer: never one that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.engine.reading import read

WEIGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
AFFINE: dict[str, Callable[[Tensor], Tensor]] = {
    "pool and linear": lambda v: v.mean((2, 3)) @ WEIGHT,
    "adaptive pool": lambda v: F.adaptive_avg_pool2d(v, 1).flatten(1) @ WEIGHT,
    "average pool": lambda v: F.avg_pool2d(v, 2).flatten(1)[:, :4],
    "convolution": lambda v: F.conv2d(v, torch.ones(4, 6, 3, 3)).sum((2, 3)),
    "scaled": lambda v: (3 * v / 2 - 1).sum((2, 3))[:, :4],
    "sum of parts": lambda v: v.mean((2, 3)) @ WEIGHT + v[:, :4, 0, 0],
    "shapes are no values": lambda v: v.reshape(v.shape[0], v.size(1), -1).sum(2)[:, :4] / v.numel(),
    "resized": lambda v: F.interpolate(v, (7, 7), mode="bilinear").sum((2, 3))[:, :4],
}
NOT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda v: v.relu().mean((2, 3)) @ WEIGHT,
    "relu by a mask": lambda v: (v * (v > 0)).mean((2, 3)) @ WEIGHT,
    "relu by where": lambda v: torch.where(v > 0, v, 0).mean((2, 3)) @ WEIGHT,
    "relu by masked fill": lambda v: v.masked_fill(v < 0, 0).mean((2, 3)) @ WEIGHT,
    "max pool": lambda v: F.adaptive_max_pool2d(v, 1).flatten(1) @ WEIGHT,
    "largest by gather": lambda v: v.flatten(2).gather(2, v.flatten(2).argmax(2, keepdim=True))[..., 0] @ WEIGHT,
    "largest by index": lambda v: v[:, :4, 0, int(v[0, 0, 0].argmax())],
    "sorted": lambda v: v.flatten(2).sort(2)[0][..., 0] @ WEIGHT,
    "gate": lambda v: (v * v.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)) @ WEIGHT,
    "detached gate": lambda v: (v * v.detach().mean((2, 3), keepdim=True)).mean((2, 3)) @ WEIGHT,
    "square": lambda v: (v * v).mean((2, 3)) @ WEIGHT,
    "power": lambda v: (v**2).mean((2, 3)) @ WEIGHT,
    "quotient": lambda v: (1 / (1 + v**2)).mean((2, 3)) @ WEIGHT,
    "divided by its own": lambda v: (v / v.detach().norm()).mean((2, 3)) @ WEIGHT,
    "a number in between": lambda v: v.mean((2, 3)) @ WEIGHT * float(v.abs().mean()),
    "a branch": lambda v: (v if v.sum() > 0 else -v).mean((2, 3)) @ WEIGHT,
    "layer norm": lambda v: F.layer_norm(v.mean((2, 3)), (6,)) @ WEIGHT,
    "softmax": lambda v: (v.mean((2, 3)) @ WEIGHT).softmax(1),
    "abs": lambda v: v.abs().mean((2, 3)) @ WEIGHT,
    "rounded": lambda v: (v + (v.round() - v).detach()).mean((2, 3)) @ WEIGHT,
    "product with itself": lambda v: torch.einsum("bchw,bchw->bc", v, v)[:, :4],
    "in NumPy": lambda v: v.mean((2, 3)) @ WEIGHT * torch.from_numpy(v.detach().numpy()).sum(),
    "data": lambda v: v.mean((2, 3)) @ WEIGHT * v.data.sum(),
}


def affine_of(tail: Callable[[Tensor], Tensor]) -> bool:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return tail(self.layer(x))

    model = Model().eval()
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    found: Any = read(model, (model.layer,), (x,), (), lambda out: out[:, 1], affine=True)
    return found.affine


@pytest.mark.parametrize("tail", AFFINE.values(), ids=AFFINE)
def test_affine(tail: Callable[[Tensor], Tensor]) -> None:
    assert affine_of(tail)


@pytest.mark.parametrize("tail", NOT.values(), ids=NOT)
def test_not_affine(tail: Callable[[Tensor], Tensor]) -> None:
    assert not affine_of(tail)
