"""Bare model passes: what an explanation cannot cost less than."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _batches(x: Tensor, count: int, rows: int) -> list[Tensor]:
    return [x.repeat(min(rows, count - start), 1, 1, 1) for start in range(0, count, rows)]


def predictions(model: nn.Module, x: Tensor, count: int, rows: int) -> Callable[[], None]:
    """``count`` forward passes in batches of ``rows``, without autograd."""
    batches = _batches(x, count, rows)

    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                model(batch)

    return run


def input_gradients(model: nn.Module, x: Tensor, count: int, rows: int, target: int) -> Callable[[], None]:
    """``count`` forward and backward passes to the input in batches of ``rows``."""
    batches = _batches(x, count, rows)

    def run() -> None:
        for batch in batches:
            leaf = batch.detach().requires_grad_()
            torch.autograd.grad(model(leaf)[:, target].sum(), leaf)

    return run
