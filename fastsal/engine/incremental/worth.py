"""How much of a model could be left out at best, before it is traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn


def trace_seconds(parts: int) -> float:
    """What tracing a model of so many modules takes, about; the first time also what it imports."""
    ready = "torch.fx.experimental.symbolic_shapes" in sys.modules
    return 0.3 + 0.005 * parts + (0.0 if ready else 1.5)


def share_in_maps(models: Sequence[nn.Module], call: Callable[[], Any]) -> float:
    """The share of a model's multiply-adds that is in layers over the positions of a map; 1 where none is known.

    A bound: what attention and the like mix, and which layers see the whole map, only a trace shows.

    Args:
        models: modules that ``call`` runs once on one example.
    """
    work = {"map": 0.0, "other": 0.0}

    def count(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor) or not args or not isinstance(args[0], Tensor):
            return
        weight: Any = part.weight
        over_map = output.dim() == 4 and output.shape[1:3].numel() > output.shape[1]
        if isinstance(part, nn.Conv2d):
            over_map = output.dim() == 4 and output.shape[2:].numel() > 1
        work["map" if over_map else "other"] += output.numel() * weight[0].numel()

    parts = dict.fromkeys(part for model in models for part in model.modules())
    hooks = [part.register_forward_hook(count) for part in parts if isinstance(part, (nn.Conv2d, nn.Linear))]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    total = sum(work.values())
    return work["map"] / total if total else 1.0
