"""What is read of a layer by autograd alone, for the formulas of the CAM family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
RAW: dict[str, Any] = {"relu_attributions": False, "upsample": False, "normalize": False}


def layer_values(
    model: nn.Module, layer: nn.Module, x: Tensor, score: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(A, G) by autograd through the whole model."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = layer.register_forward_hook(keep)
    try:
        output = model(x.clone().requires_grad_())
    finally:
        handle.remove()
    return kept[0].detach(), torch.autograd.grad(score(output).sum(), kept[0])[0]


def spatial_mean(t: Tensor) -> Tensor:
    return t.flatten(2).mean(2).reshape(*t.shape[:2], *[1] * (t.dim() - 2))


def spatial_sum(t: Tensor) -> Tensor:
    return spatial_mean(t) * t.shape[2:].numel()
