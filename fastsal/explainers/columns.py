"""Targets of one index for each example, read once: no later pass waits for the device to tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsal.engine.run import host_may_wait


class Columns:
    """One output [N, K]'s column for each row.

    Args:
        values: the columns.
        repeats: how many copies of them follow each other.
        placed: the same on a device, where it is known.
    """

    def __init__(self, values: Sequence[int], repeats: int = 1, placed: Tensor | None = None) -> None:
        self.values, self._repeats = values, repeats
        self._placed: dict[torch.device, Tensor] = {} if placed is None else {placed.device: placed}
        self._copies: dict[int, Columns] = {}

    @property
    def extremes(self) -> tuple[int, ...]:
        """The least and the largest; none of no column."""
        return (min(self.values), max(self.values)) if self.values else ()

    def __len__(self) -> int:
        return len(self.values) * self._repeats

    def repeated(self, count: int) -> Columns:
        """For ``count`` copies, one after another."""
        if count == 1:
            return self
        if count not in self._copies:
            copies = self._copies[count] = Columns(self.values, self._repeats * count)
            copies._placed = {device: column.repeat(count) for device, column in self._placed.items()}
        return self._copies[count]

    def on(self, device: torch.device) -> Tensor:
        """[N], int64."""
        if device not in self._placed:
            self._placed[device] = torch.tensor(self.values, dtype=torch.int64, device=device).repeat(self._repeats)
        return self._placed[device]


def read_once(target: Any, examples: int) -> Any:
    """A target of one index for each example as :class:`Columns`, a tensor of one index as that; any other as it is."""
    if isinstance(target, Tensor):
        if not host_may_wait() or target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            return target
        if target.numel() == 1:
            return int(target)
        if target.dim() != 1 or target.shape[0] != examples:
            return target
        return Columns(target.tolist(), placed=target.detach().to(torch.int64))
    if isinstance(target, np.ndarray):
        target = target.tolist()
    if isinstance(target, list) and len(target) == examples > 1 and all(map(_is_index, target)):
        return Columns([int(each) for each in target])
    return target


def _is_index(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
