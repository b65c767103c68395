"""Where a layer's positions lie: [B, C, *spatial], channels last, or a transformer's tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

MOST_EXTRA_TOKENS = 16
"""Class, distillation and register tokens, which stand before the patches."""


class Grid(NamedTuple):
    """How a layer's value becomes [B, C, *size].

    Attributes:
        kind: "channels" (dimension 1), "channels last", or "tokens" [B, extra + positions, C].
        size: positions per spatial dimension.
        extra: tokens without a position.
    """

    kind: str
    size: tuple[int, ...]
    extra: int = 0

    def arrange(self, value: Tensor) -> Tensor:
        """[B, C, *size] of the layer's value."""
        if self.kind == "channels":
            return value
        if self.kind == "channels last":
            return value.movedim(-1, 1)
        positions: Tensor = value[:, self.extra :].movedim(1, 2).unflatten(2, self.size)
        return positions


def _patch_grids(size: Sequence[int]) -> set[tuple[int, ...]]:
    """Grids that equal patches of any side cut an input into, with and without a last one that hangs over."""
    sides = range(1, max(size) + 1)
    whole = {tuple(extent // side for extent in size) for side in sides}
    over = {tuple(math.ceil(extent / side) for extent in size) for side in sides}
    return {grid for grid in whole | over if min(grid) > 0 and math.prod(grid) > 1}


def grid_of(shape: Sequence[int], size: Sequence[int]) -> Grid | None:
    """The grid of a layer's output of this shape, for an input of this spatial size; None where there is none.

    An output with the input's number of dimensions is [B, C, *spatial], or [B, *spatial, C] where only these are what
    equal patches would give. Tokens [B, N, C] are the patches, and the fewest possible tokens before them.
    """
    return _grid_of(tuple(shape[1:]), tuple(size))


@lru_cache(maxsize=1024)
def _grid_of(rest: tuple[int, ...], size: tuple[int, ...]) -> Grid | None:
    if len(rest) == len(size) + 1:
        if len(size) > 1:
            grids = _patch_grids(size)
            if rest[1:] not in grids and rest[:-1] in grids:
                return Grid("channels last", rest[:-1])
        return Grid("channels", rest[1:]) if math.prod(rest[1:]) > 1 else None
    if len(rest) == 2 and len(size) > 1 and rest[1] > 1:  # a pooled [B, C, 1] has no tokens
        by_count = {math.prod(grid): grid for grid in sorted(_patch_grids(size))}
        for extra in range(min(MOST_EXTRA_TOKENS, rest[0]) + 1):
            if rest[0] - extra in by_count:
                return Grid("tokens", by_count[rest[0] - extra], extra)
    return None
