"""RISE's masked batch and its fold; the masks themselves are never held. Meaning: :mod:`fastsal.reference.masks`.

Bytes: ``batch`` writes (stop - start) * numel(input) elements and reads input once; ``accumulate`` reads the scores
and reads and writes prod(ceil(size / s) * s) floats per output.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastsal._torch import call_without_dynamo
from fastsal.ops._arguments import index_range, per_dimension, sizes_of, spatial, split_baseline
from fastsal.ops._define import Op
from fastsal.ops._vmap import into_batch, into_columns, rows_out
from fastsal.reference import masks as reference
from fastsal.reference._numerics import accumulation_dtype, memory_format

Border = Literal["reflect", "clamp"]
LARGEST_GRID = 31
"""A row of a grid is held in one 32-bit word, which also needs the cell to the right of the last."""


call_without_dynamo(reference.draw)


class Design(NamedTuple):
    """Masks that were chosen elsewhere, in the place of those of a seed.

    Attributes:
        words: [N, rows of a grid], int32: cell k of a row in bit k; rows of all but the last dimension, in order.
        offsets: [N, 3], int32: crop offsets in depth, height and width, each below ceil(size / cells).
    """

    words: Tensor
    offsets: Tensor

    def part(self, which: slice) -> Design:
        """Some of the masks."""
        return Design(self.words[which], self.offsets[which])

    def to(self, device: torch.device) -> Design:
        """The same on a device."""
        return Design(self.words.to(device), self.offsets.to(device))


def design_of(grids: Tensor, offsets: Tensor) -> Design:
    """A design of grids [N, *grid] (bool), one to three dimensions, and offsets [N, as many] (integers).

    Raises:
        ValueError: for shapes that do not fit, or a dimension of more than 31 cells.
    """
    dimensions = grids.dim() - 1
    if not 1 <= dimensions <= 3 or tuple(offsets.shape) != (grids.shape[0], dimensions):
        raise ValueError(f"offsets: shape {tuple(offsets.shape)} is not [N, dimensions] of grids {tuple(grids.shape)}")
    if max(grids.shape[1:]) > LARGEST_GRID:
        raise ValueError(f"grids: shape {tuple(grids.shape)} has more than {LARGEST_GRID} cells in a dimension")
    bits = torch.arange(grids.shape[-1], dtype=torch.int32, device=grids.device)
    words = (grids.to(torch.int32) << bits).sum(-1, dtype=torch.int32).reshape(grids.shape[0], -1)
    return Design(words, torch.nn.functional.pad(offsets.to(torch.int32), (3 - dimensions, 0)))


def _empty_batch(input: Tensor, baseline: Any, fill: Any, seed: Any, start: Any, stop: Any, *rest: Any) -> Tensor:
    shape = ((stop - start) * input.shape[0], *input.shape[1:])
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))


def _vmap_batch(info: Any, dims: tuple[Any, ...], input: Tensor, baseline: Tensor | None, *rest: Any) -> Any:
    size = info.batch_size
    merged = into_batch(input, dims[0], size), into_batch(baseline, dims[1], size)
    return rows_out(_batch.overload(*merged, *rest), rest[3] - rest[2], size)


_batch = Op(
    "masks_batch(Tensor input, Tensor? baseline, float fill, int seed, SymInt start, SymInt stop, "
    "int[] grid, float probability, bool mirror, Tensor? words, Tensor? offsets) -> Tensor",
    reference=reference.batch,
    kernel="masks.batch",
    empty=_empty_batch,
    vmap=_vmap_batch,
)


def _state_shape(outputs: int, size: Sequence[int], grid: Sequence[int]) -> tuple[int, int, int]:
    return prod(reference.cell_sizes(size, grid)), outputs, prod(grid)


def _empty_accumulate(
    scores: Tensor, partial: Any, seed: Any, start: Any, size: Sequence[int], grid: Sequence[int], *rest: Any
) -> Tensor:
    shape = _state_shape(scores.shape[1], size, grid)
    return torch.empty(shape, dtype=accumulation_dtype(scores.dtype), device=scores.device)


def _vmap_accumulate(info: Any, dims: tuple[Any, ...], scores: Tensor, partial: Tensor | None, *rest: Any) -> Any:
    size = info.batch_size
    merged = into_columns(scores, dims[0], size), into_columns(partial, dims[1], size)
    return _accumulate.overload(*merged, *rest).unflatten(1, (size, -1)), 1


_accumulate = Op(
    "masks_accumulate(Tensor scores, Tensor? partial, int seed, SymInt start, int[] size, int[] grid, "
    "float probability, Tensor? words, Tensor? offsets) -> Tensor",
    reference=reference.accumulate,
    kernel="masks.accumulate",
    empty=_empty_accumulate,
    vmap=_vmap_accumulate,
)


@dataclass(frozen=True, init=False, slots=True)
class Masks:
    """RISE's random masks for inputs of one size; mask n is a function of (seed, n) alone. Checked once, when made.

    Args:
        size: an input's spatial sizes, one to three.
        grid_size: cells of a mask's grid per spatial dimension, one int or one each, at most 31.
        probability: that a cell of the grid is 1 (keeps the input).
        border: ``reflect`` mirrors the grid at the border without repeating the edge, as the authors' code does;
            ``clamp`` repeats the edge, as ``F.interpolate`` does.
        seed: of all masks, 64 bits.

    Attributes:
        size, grid: of each spatial dimension.
        probability, border, seed: as given.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
    """

    size: tuple[int, ...]
    grid: tuple[int, ...]
    probability: float
    border: Border
    seed: int

    def __init__(
        self,
        size: Sequence[int],
        grid_size: int | Sequence[int] = 7,
        probability: float = 0.5,
        border: Border = "reflect",
        seed: int = 0,
    ) -> None:
        sizes = sizes_of("size", size)
        if not 1 <= len(sizes) <= 3:
            raise ValueError(f"size: {sizes} does not have 1 to 3 entries")
        if min(sizes) < 1:
            raise ValueError(f"size: {sizes} has an entry below 1")
        grid = tuple(cells(sizes, grid_size))
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability: {probability} is not in [0, 1]")
        if border not in ("reflect", "clamp"):
            raise ValueError(f"border: {border!r} is neither 'reflect' (the paper's) nor 'clamp'")
        try:
            key = operator.index(seed)
        except TypeError:
            raise TypeError(f"seed: {seed!r} is not an int") from None
        if not -(2**63) <= key < 2**63:
            raise ValueError(f"seed: {seed} does not fit in 64 bits")
        keep = object.__setattr__
        keep(self, "size", sizes)
        keep(self, "grid", grid)
        keep(self, "probability", float(probability))
        keep(self, "border", border)
        keep(self, "seed", key)

    @property
    def mirror(self) -> bool:
        """Whether the border is mirrored."""
        return self.border == "reflect"

    def batch(
        self,
        input: Tensor,
        start: int,
        stop: int,
        baseline: float | Tensor = 0.0,
        design: Design | None = None,
    ) -> Tensor:
        """Input under each of the masks start .. stop.

        Args:
            input: [B, C, *size], floating point; every image gets the same masks.
            start, stop: range of mask indices.
            baseline: what shows where the mask is 0: a number, or a tensor that broadcasts to input.
            design: the masks start .. stop themselves, in the place of those of the seed.

        Returns:
            [(stop - start) * B, C, *size] in the input's dtype and memory format, row (n - start) * B + b.

        Raises:
            TypeError, ValueError: for arguments outside of the above.
        """
        shape = tuple(input.shape)  # a slice of a tuple costs a tenth of one of a torch.Size
        if shape[2:] != self.size or len(shape) < 2:
            raise ValueError(f"input: shape {shape} is not [B, C, {', '.join(map(str, self.size))}]")
        if not input.is_floating_point():
            raise TypeError(f"input: dtype {input.dtype} is not floating point, and masks are fractions")
        index_range(start, stop)
        tensor, fill = split_baseline(input, baseline)
        words, offsets = _checked(design, stop - start, self.grid, input.device)
        return _batch(
            input, tensor, fill, self.seed, start, stop, self.grid, self.probability, self.mirror, words, offsets
        )

    def accumulate(
        self, scores: Tensor, start: int, partial: Tensor | None = None, design: Design | None = None
    ) -> Tensor:
        """Add the masks start .. start + N, weighted by scores, to the state from which :meth:`finish` makes maps.

        Args:
            scores: [N, K], floating point.
            start: index of the first mask.
            partial: the state after the earlier masks; chunks give the same bits as one call.
            design: as in :meth:`batch`.

        Returns:
            The new state, float32 (float64 for float64 scores); its size does not depend on N.

        Raises:
            ValueError: for arguments outside of the above.
        """
        if scores.dim() != 2 or not scores.is_floating_point():
            given = f"{scores.dtype} of shape {tuple(scores.shape)}"
            raise ValueError(f"scores: {given} is not floating point of shape [N, K]")
        index_range(start, start + scores.shape[0])
        if partial is not None:
            shape, dtype = _state_shape(scores.shape[1], self.size, self.grid), accumulation_dtype(scores.dtype)
            if tuple(partial.shape) != shape or partial.dtype != dtype:
                given = f"{partial.dtype} of shape {tuple(partial.shape)}"
                raise ValueError(f"partial: {given} is not the state of earlier masks, {dtype} of shape {shape}")
        words, offsets = _checked(design, scores.shape[0], self.grid, scores.device)
        return _accumulate(scores, partial, self.seed, start, self.size, self.grid, self.probability, words, offsets)

    def finish(self, state: Tensor) -> Tensor:
        """Maps [K, *size] = sum over n of scores[n, k] * mask n, from the state of :meth:`accumulate`."""
        return reference.finish(state, self.size, self.grid, self.mirror)

    def fold(self, scores: Tensor, start: int) -> Tensor:
        """Score-weighted sum of the masks start .. start + N, regenerated: [K, *size] for scores [N, K].

        RISE's map (equation 6 of the paper) is this divided by N * probability.
        """
        return self.finish(self.accumulate(scores, start))

    def drawn(self, start: int, stop: int, device: torch.device | str = "cpu") -> Design:
        """The masks start .. stop, as a design."""
        index_range(start, stop)
        extent, grid = reference.as_volume(self.size), reference.as_volume(self.grid)
        cell = reference.cell_sizes(extent, grid)
        grids, offsets = reference.draw(
            self.seed, start, stop - start, grid, cell, self.probability, torch.device(device)
        )
        return design_of(grids.view(stop - start, *self.grid), offsets[:, 3 - len(self.grid) :])

    def interpolation(self) -> list[Tensor]:
        """How a mask is made of its grid: for each dimension matrices [offsets, size, cells], float64, on the CPU.

        A mask of an image with the offsets (s, t) is ``y[s] @ grid @ x[t].T``; each row of a matrix sums to one.
        """
        found = []
        for extent, number, cell in zip(self.size, self.grid, reference.cell_sizes(self.size, self.grid), strict=True):
            offsets = torch.arange(cell, dtype=torch.int64, device="cpu")
            found.append(reference.interpolation_weights(offsets, extent, number, cell, self.mirror))
        return found


def cells(size: Sequence[int], grid_size: int | Sequence[int]) -> list[int]:
    """Cells of a grid in each dimension.

    Raises:
        TypeError, ValueError: for what is not one int of 1 to 31, or one for each dimension.
    """
    grid = per_dimension("grid_size", grid_size, len(size))
    if max(grid) > LARGEST_GRID:
        raise ValueError(f"grid_size: {grid_size} is above {LARGEST_GRID}")
    return grid


def opened(design: Design, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Grids [N, *grid] (bool) and offsets [N, dimensions] (int64) of a design."""
    grids, offsets = reference.unpack(design.words, design.offsets, reference.as_volume(list(grid)))
    return grids.view(len(grids), *grid), offsets[:, 3 - len(grid) :]


def _checked(
    design: Design | None, count: int, grid: Sequence[int], device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if design is None:
        return None, None
    rows = prod(grid[:-1])
    for name, tensor, shape in (("words", design.words, (count, rows)), ("offsets", design.offsets, (count, 3))):
        if tuple(tensor.shape) != shape or tensor.dtype != torch.int32 or tensor.device != device:
            given = f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
            raise ValueError(f"design: its {name} are {given}, not int32 of shape {shape} on {device}")
    return design.words, design.offsets


def drawn(
    start: int,
    stop: int,
    size: Sequence[int],
    *,
    seed: int = 0,
    grid_size: int | Sequence[int] = 7,
    probability: float = 0.5,
    device: torch.device | str = "cpu",
) -> Design:
    """:meth:`Masks.drawn`, of the masks of a size and seed."""
    return Masks(size, grid_size, probability, seed=seed).drawn(start, stop, device)


def interpolation(
    size: Sequence[int], grid_size: int | Sequence[int] = 7, *, border: Border = "reflect"
) -> list[Tensor]:
    """:meth:`Masks.interpolation`, of the masks of a size."""
    return Masks(size, grid_size, border=border).interpolation()


def batch(
    input: Tensor,
    start: int,
    stop: int,
    *,
    seed: int = 0,
    grid_size: int | Sequence[int] = 7,
    probability: float = 0.5,
    border: Border = "reflect",
    baseline: float | Tensor = 0.0,
    design: Design | None = None,
) -> Tensor:
    """:meth:`Masks.batch`, of the masks of the input's size and a seed."""
    made = Masks(spatial("input", input), grid_size, probability, border, seed)
    return made.batch(input, start, stop, baseline, design)


def accumulate(
    scores: Tensor,
    start: int,
    size: Sequence[int],
    *,
    seed: int = 0,
    grid_size: int | Sequence[int] = 7,
    probability: float = 0.5,
    partial: Tensor | None = None,
    design: Design | None = None,
) -> Tensor:
    """:meth:`Masks.accumulate`, of the masks of a size and seed."""
    return Masks(size, grid_size, probability, seed=seed).accumulate(scores, start, partial, design)


def finish(
    partial: Tensor, size: Sequence[int], *, grid_size: int | Sequence[int] = 7, border: Border = "reflect"
) -> Tensor:
    """:meth:`Masks.finish`, of the masks of a size."""
    return Masks(size, grid_size, border=border).finish(partial)


def fold(
    scores: Tensor,
    start: int,
    size: Sequence[int],
    *,
    seed: int = 0,
    grid_size: int | Sequence[int] = 7,
    probability: float = 0.5,
    border: Border = "reflect",
) -> Tensor:
    """:meth:`Masks.fold`, of the masks of a size and seed: K outputs at once."""
    return Masks(size, grid_size, probability, border, seed).fold(scores, start)
