"""Recurrent networks in evaluation mode on a CUDA device, whose cuDNN kernels have no backward pass there.

cuDNN keeps what a backward pass needs in training mode alone, and has no second derivative. While autograd records,
PyTorch's own kernels run such a module instead: for the time of its forward cuDNN is off, a switch of the process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fastsal.engine.run.own import Undone

_lock = threading.Lock()
_off = 0
"""Forwards of any thread that run without cuDNN now."""
_before = True


def differentiable(parts: Iterable[nn.Module], undone: Undone) -> None:
    """Recurrent ones among modules can be differentiated until the end of a context."""
    for part in parts:
        if isinstance(part, nn.RNNBase):
            _differentiable(part, undone)


def _differentiable(module: nn.RNNBase, undone: Undone) -> None:
    held: list[bool] = []

    def leave() -> None:
        if held:
            held.pop()
            _switch(-1)

    def begin(_module: nn.Module, _args: Any) -> None:
        if torch.is_grad_enabled() and _is_on_cuda(module):
            held.append(True)
            _switch(1)

    def end(_module: nn.Module, _args: Any, _output: Any) -> None:
        leave()

    undone.at_end(leave)
    undone.hook(module, begin, before=True)
    undone.hook(module, end, always=True)


def _switch(step: int) -> None:
    """One more forward without cuDNN, or one less: off with the first, as it was after the last."""
    global _off, _before
    with _lock:
        if not _off:
            _before = torch.backends.cudnn.enabled
        _off += step
        torch.backends.cudnn.enabled = _before and not _off


def _is_on_cuda(module: nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in module.parameters())
