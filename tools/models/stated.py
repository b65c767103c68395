"""The grids of places that a model's own settings say: patch sizes, strides, windows. Nothing of fastsal is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

GridSize = tuple[int, ...]


@dataclass(frozen=True)
class Stated:
    """What a model says of itself.

    Attributes:
        grids: of its stages, the last first.
        before: tokens of no place before the patches (class, distillation, registers).
        behind: and behind them (detection).
        source: which settings say so.
        order: the grids' axes in the order of the input's; None where they are in that order.
    """

    grids: tuple[GridSize, ...] = ()
    before: int = 0
    behind: int = 0
    source: str = "nothing"
    order: tuple[int, ...] | None = None

    def arrange(self, value: Tensor, examples: int) -> tuple[Tensor, GridSize] | None:
        """([B, C, *grid], grid) of a layer's value, in the order of the input's axes; None where none fits."""
        for grid in self.grids:
            found = self._at(value, examples, grid)
            if found is not None and self.order is not None:
                return found.permute(0, 1, *(2 + axis for axis in self.order)), tuple(grid[a] for a in self.order)
            if found is not None:
                return found, grid
        return None

    def _at(self, value: Tensor, examples: int, grid: GridSize) -> Tensor | None:
        shape, count, dimensions = tuple(value.shape), math.prod(grid), len(grid)
        if shape[0] != examples or len(shape) < 3:
            return None
        if len(shape) == dimensions + 2:
            if shape[2:] == grid and not (shape[1:-1] == grid and dimensions == 1):
                return value
            if shape[1:-1] == grid:
                return value.movedim(-1, 1)
        if len(shape) == 3 and dimensions > 1:
            for before, behind in {(self.before, self.behind), (0, 0)}:
                if shape[1] == count + before + behind:
                    patches: Tensor = value[:, before : before + count].movedim(1, 2).unflatten(2, grid)
                    return patches
                if shape[2] == count + before + behind:
                    across: Tensor = value[:, :, before : before + count].unflatten(2, grid)
                    return across
        if len(shape) == 3 and dimensions == 1:
            for before, behind in {(self.before, self.behind), (0, 0)}:
                if shape[1] == count + before + behind:
                    return value[:, before : before + count].movedim(1, 2)
        return None


def over(size: Sequence[int], stride: int | Sequence[int]) -> tuple[GridSize, ...]:
    """The grids that a stride leaves of a size, rounded up or down."""
    strides = (stride,) * len(size) if isinstance(stride, int) else tuple(stride)
    up = tuple(math.ceil(n / s) for n, s in zip(size, strides, strict=True))
    down = tuple(n // s for n, s in zip(size, strides, strict=True))
    return tuple(dict.fromkeys(grid for grid in (up, down) if math.prod(grid) > 1))


def strided(size: Sequence[int], strides: Sequence[Any], before: int = 0, source: str = "strides") -> Stated:
    """Of stages whose strides against the input are given in order."""
    grids = [grid for stride in reversed(strides) for grid in over(size, stride)]
    return Stated(tuple(dict.fromkeys(grids)), before, 0, source)


@torch.no_grad()
def convolved(model: nn.Module, inputs: Tensor, within: str = "") -> list[GridSize]:
    """Sizes of what convolutions and poolings gave as they ran, the last first: these are [B, C, *places] always."""
    seen: list[GridSize] = []
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.AvgPool2d, nn.MaxPool3d, nn.AvgPool3d)

    def visit(_part: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == inputs.dim() and math.prod(output.shape[2:]) > 1:
            seen.append(tuple(output.shape[2:]))

    hooks = [
        part.register_forward_hook(visit)
        for name, part in model.named_modules()
        if isinstance(part, kinds) and name.startswith(within)
    ]
    was = model.training
    try:
        model.eval()(inputs.clone())
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(reversed(seen)))


def by_convolutions(model: nn.Module, inputs: Tensor, within: str = "") -> Stated:
    """Of a convolutional network: every size that a convolution or pooling left, the last first."""
    return Stated(tuple(convolved(model, inputs, within)), 0, 0, "convolutions")


def timm_states(model: nn.Module, inputs: Tensor) -> Stated:
    """Of a timm model: ``patch_embed.grid_size`` and ``num_prefix_tokens``, the reductions of ``feature_info``, and
    what its convolutions leave (also those without padding, whose sizes no reduction gives)."""
    size = tuple(inputs.shape[2:])
    grids: list[GridSize] = []
    source = []
    infos = getattr(model, "feature_info", None)
    reductions = [] if infos is None else [info["reduction"] for info in _infos(infos) if "reduction" in info]
    if reductions:
        source.append("feature_info")
        grids += [g for stride in sorted(set(map(_whole, reductions)), reverse=True) for g in over(size, stride)]
    patches = getattr(model, "patch_embed", None)
    grid = getattr(patches, "grid_size", None)
    if grid is not None:
        source.append("patch_embed.grid_size")
        given = tuple(map(int, grid))
        # A model of one stage keeps the grid of its patches.
        grids = [given, *grids] if len(set(reductions)) <= 1 else [*grids, given]
    last = convolved(model, inputs)
    if last:
        source.append("convolutions")
        # Tokens of these are met too; a convolution's size stands first where no setting gives one.
        unpadded = bool(reductions) and last[0] not in grids and grid is None
        grids = [*last, *grids] if not grids or unpadded else [*grids, *last]
    before = int(getattr(model, "num_prefix_tokens", 0) or 0)
    if not before:
        before = sum(isinstance(getattr(model, name, None), Tensor) for name in ("cls_token", "dist_token"))
    return Stated(tuple(dict.fromkeys(grids)), before, 0, " and ".join(source) or "nothing")


def _infos(infos: Any) -> list[dict[str, Any]]:
    return list(infos) if isinstance(infos, (list, tuple)) else list(getattr(infos, "info", []))


def _whole(reduction: Any) -> int:
    return int(reduction if isinstance(reduction, (int, float)) else reduction[0])
