"""What is known of a layer's positions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


class Unsettled(ValueError):
    """Raised where it is not known which of a layer's dimensions are positions.

    Args:
        name: the layer's.
        shape: of its value.
        why: what is known of it instead.
    """

    def __init__(self, name: str, shape: Sequence[int], why: str) -> None:
        self.name, self.shape, self.why = name, tuple(shape), why
        super().__init__(
            f"layer: {name} {list(shape)} has no positions that are known: {why}; choose another (fastsal.layers lists "
            "them) or pass reshape_transform"
        )

    def again(self) -> Unsettled:
        """The same, without what it was raised in before."""
        return Unsettled(self.name, self.shape, self.why)


@dataclass(frozen=True)
class Geometry:
    """Where one layer's positions are, and where in an input each looks.

    The entries of ``positions``, ``axes``, ``grid``, ``offset`` and ``stride`` belong together, one for each axis of
    the grid, as they lie in the layer: where several are in one dimension (a transformer's tokens) the first is the
    slowest.
    Position i of an axis looks at ``offset + i * stride`` of the input's elements along ``axes``, counted from 0.

    Attributes:
        examples: the layer's dimension of the examples.
        channels: its dimension of the channels.
        positions: its dimension of each axis' positions.
        input: which of the model's inputs the positions look at.
        axes: the dimension of that input that each axis runs along.
        grid: how many positions each axis has.
        before, behind: tokens of no position in front of them and behind, where they are in one dimension.
        offset: where the first position of each axis looks.
        stride: how far the next one looks from it; negative where the axis runs backwards.
        evidence: "proved" by the operations that led to the layer, "measured", or "stated".
        extents: the input's size along each axis, where it is known.
        local: whether each position's own surroundings are in its value; a sum over all positions, as attention takes,
            has its place from the query alone.
        resampled: whether pooling to a fixed size or enlarging made the grid.
        also: other inputs that the layer looks at.
        others: the geometries of those of them along which it has positions.

    >>> tokens = fastsal.Geometry(0, 2, (1, 1), 0, (2, 3), (4, 6), before=1, stride=(16.0, 16.0), offset=(7.5, 7.5))
    >>> tokens.arrange(torch.zeros(2, 25, 8)).shape
    torch.Size([2, 8, 4, 6])
    """

    examples: int
    channels: int
    positions: tuple[int, ...]
    input: int
    axes: tuple[int, ...]
    grid: tuple[int, ...]
    before: int = 0
    behind: int = 0
    offset: tuple[float, ...] = ()
    stride: tuple[float, ...] = ()
    evidence: str = "stated"
    extents: tuple[int, ...] = ()
    local: bool = True
    resampled: bool = False
    also: tuple[int, ...] = ()
    others: tuple[Geometry, ...] = ()

    @property
    def size(self) -> tuple[int, ...]:
        """The grid in the order of the input's dimensions, as :meth:`arrange` gives it."""
        return tuple(count for _, count in sorted(zip(self.axes, self.grid, strict=True)))

    def arrange(self, value: Tensor) -> Tensor:
        """[B, C, *size] of the layer's value, as a view where that is possible.

        Args:
            value: the layer's, with any number of examples.

        Raises:
            ValueError: where it is not of the shape that is described here.
        """
        if self._as_it_is and value.dim() == 2 + len(self.positions):
            return value
        dims = sorted(set(self.positions), key=self.positions.index)
        if value.dim() != 2 + len(dims):
            raise ValueError(f"layer: its value {tuple(value.shape)} has not the {2 + len(dims)} dimensions of {self}")
        found = value.permute(self.examples, self.channels, *dims)
        for place, dim in enumerate(dims):
            sizes = [count for count, at in zip(self.grid, self.positions, strict=True) if at == dim]
            at = 2 + sum(1 for other in self.positions if other in dims[:place])
            if len(dims) == 1 and (self.before or self.behind):
                found = found.narrow(at, self.before, found.shape[at] - self.before - self.behind)
            if len(sizes) > 1:
                found = found.unflatten(at, sizes)
        order = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        if order != list(range(len(order))):
            found = found.permute(0, 1, *[2 + place for place in order])
        return found

    def check(self, value: Tensor) -> None:
        """
        Raises:
            ValueError: for a value of another shape than is described here.
        """
        dims = set(self.positions)
        counts = dict.fromkeys(dims, 1)
        for dim, count in zip(self.positions, self.grid, strict=True):
            counts[dim] *= count
        extra = self.before + self.behind
        given = {self.examples, self.channels, *dims}
        fits = given == set(range(value.dim())) and len(given) == 2 + len(dims) and not (extra and len(dims) > 1)
        if not fits or any(value.shape[dim] != count + extra for dim, count in counts.items()):
            raise ValueError(f"reshape_transform: {self} is not of a layer's value {tuple(value.shape)}")

    def restore(self, arranged: Tensor, value: Tensor) -> Tensor:
        """A layer's value with other positions: ``arranged`` [B, C, *size] where ``value`` has its own."""
        found = value.clone()
        self.arrange(found).copy_(arranged)
        return found

    def centres(self) -> tuple[tuple[float, ...], ...]:
        """Where each position looks, in the order of :attr:`size`: for each axis, one coordinate for each position."""
        each = sorted(zip(self.axes, self.grid, self.offset, self.stride, strict=True))
        return tuple(tuple(offset + index * stride for index in range(count)) for _, count, offset, stride in each)

    @functools.cached_property
    def _as_it_is(self) -> bool:
        """Whether a value is arranged already: asked in every call."""
        places = tuple(range(2, 2 + len(self.positions)))
        return (
            (self.examples, self.channels, self.positions) == (0, 1, places)
            and not (self.before or self.behind)
            and list(self.axes) == sorted(self.axes)
        )

    def tiles(self) -> bool:
        """Whether each position is within half a step of where equal parts of the input would put it."""
        return self._tiles

    @functools.cached_property
    def _tiles(self) -> bool:
        parts = zip(self.grid, self.offset, self.stride, self.extents, strict=True)
        return all(
            abs(offset + at * stride - ((at + 0.5) * extent / count - 0.5)) <= (0.5 + 1e-6) * abs(stride)
            for count, offset, stride, extent in parts
            for at in (0, count - 1)
        )

    def __str__(self) -> str:
        grid = " x ".join(map(str, self.size))
        extra = f", {self.before} before and {self.behind} behind" if self.before or self.behind else ""
        return (
            f"dimensions (examples {self.examples}, channels {self.channels}, positions "
            f"{_listed(sorted(set(self.positions)))}), grid {grid}{extra} of input {self.input}"
        )


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
