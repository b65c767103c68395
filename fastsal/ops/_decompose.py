"""Every op as plain PyTorch operations, for exported graphs that no process with fastsal runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsal._torch import disable_current_modes
from fastsal.ops._define import OPS
from fastsal.reference import masks, noise

MOST_BYTES = 2**30
"""Of noise that becomes part of a package; more would be an odd file, and slow to load."""


def decompositions(traced: int, most: int) -> dict[Any, Callable[..., Any]]:
    """A table for ``make_fx``: ops as their references, and random draws of a fixed seed as constants.

    A sample's noise depends on an element's number alone, so that of the largest batch holds that of every smaller.

    Args:
        traced: examples of the batch that is traced.
        most: examples of the largest batch that the graph is for.

    Raises:
        ValueError: while tracing, for noise of more than 1 GiB.
    """

    def noise_draw(seed: int, start: int, stop: int, elements: Any, device: torch.device) -> Tensor:
        hint = elements.node.hint if isinstance(elements, torch.SymInt) else elements
        # One more than the largest batch has, so that no batch is the case in which nothing is cut off.
        needed = hint // traced * most + 1
        size = (stop - start) * needed * 4
        if size > MOST_BYTES:
            raise ValueError(
                f"n_samples: {stop - start} of {needed} elements are {size / 2**30:.1f} GiB of noise in the package, "
                "at most 1 GiB: export fewer samples or a smaller batch"
            )
        with disable_current_modes():
            drawn: Tensor = noise.draw(seed, start, stop, needed, device)
        return drawn[:, :elements]

    def masks_draw(
        seed: int,
        start: int,
        count: int,
        grid: Sequence[int],
        cell: Sequence[int],
        probability: float,
        device: torch.device,
    ) -> Any:
        with disable_current_modes():
            return masks.draw(seed, start, count, grid, cell, probability, device)

    table: dict[Any, Callable[..., Any]] = {op.overload: op.reference for op in OPS}
    table[torch.ops.fastsal.noise_draw.default] = noise_draw
    table[torch.ops.fastsal.masks_draw.default] = masks_draw
    return table
