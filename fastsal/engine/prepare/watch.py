"""Whether a model's weights, buffers or parts changed since, at the cost of looking at each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Watch:
    """A model's tensors and parts as they were.

    What is written through ``tensor.data`` is not seen, as autograd does not see it either.

    Args:
        model: module.
        values: look for tensors written in place too, not only for others in their place.
    """

    def __init__(self, model: nn.Module, values: bool = True) -> None:
        self._values = values
        self._held: list[tuple[dict[str, Any], list[tuple[str, Any]]]] = []
        for part in model.modules():
            # A ScriptModule's parts cannot be replaced, and it makes their dicts anew each time.
            if not isinstance(part, torch.jit.ScriptModule):
                dicts: tuple[dict[str, Any], ...] = (part._parameters, part._buffers, part._modules)
                self._held += [(held, list(held.items())) for held in dicts if held]
        self._tensors = [*model.parameters(), *model.buffers()]
        self._state = self._now()

    def _now(self) -> list[tuple[int, int]]:
        return [
            (0 if t.is_meta else t.data_ptr(), t._version if self._values and not t.is_inference() else 0)
            for t in self._tensors
        ]

    def changed(self) -> bool:
        """Whether anything did."""
        for held, items in self._held:
            if len(held) != len(items):
                return True
            for name, value in items:
                if held.get(name) is not value:
                    return True
        return self._state != self._now()
