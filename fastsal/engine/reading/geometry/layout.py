"""What each dimension of a tensor is made of: examples, cells along an axis of an input, or anything else.

A dimension is a product of factors, the slowest first, as a view would split it. Cells of an axis are evenly spaced:
index i looks at ``offset + i * stride`` of the input's own elements. Sizes alone never say what a dimension is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias


class Unknown(Exception):
    """What an operation makes of its dimensions cannot be told."""


@dataclass(frozen=True)
class Look:
    """Where cells look in one input: along a dimension of it, in its elements.

    Attributes:
        spread: how far from the offset the middles of what was brought together lie.
    """

    input: int
    axis: int
    stride: float
    offset: float
    spread: float = 0.0


@dataclass(frozen=True)
class Examples:
    """The inputs' dimension 0."""

    extent: int


@dataclass(frozen=True)
class Plain:
    """Channels, queries, heads: what follows no axis of an input; or what may, which was lost on the way."""

    extent: int
    lost: bool = False


@dataclass(frozen=True)
class Cells:
    """Evenly spaced along an axis of one input, or of several alike.

    Attributes:
        extent: how many.
        looks: one for each input that they look at.
        roll: by how many they are turned around.
        mixed: whether other cells came in, as in attention, with none of the cell's own kept beside.
        resampled: whether pooling to a fixed size or enlarging made them.
    """

    extent: int
    looks: tuple[Look, ...]
    roll: int = 0
    mixed: bool = False
    resampled: bool = False


@dataclass(frozen=True)
class Joined:
    """Parts one behind the other: tokens of no place, and those of the patches."""

    parts: tuple[Dim, ...]

    @property
    def extent(self) -> int:
        return sum(map(size_of, self.parts))


Factor: TypeAlias = Examples | Plain | Cells | Joined
Dim: TypeAlias = tuple[Factor, ...]
Layout: TypeAlias = tuple[Dim, ...]


def size_of(dim: Dim) -> int:
    return math.prod(factor.extent for factor in dim)


def plain(extent: int) -> Dim:
    return () if extent == 1 else (Plain(extent),)


def lost(extent: int) -> Dim:
    """A dimension that may follow an axis, nobody knows which."""
    return () if extent == 1 else (Plain(extent, lost=True),)


def opaque(shape: Iterable[int]) -> Layout:
    """Of a tensor that depends on the inputs, nobody knows how."""
    return tuple(map(lost, shape))


def of_input(index: int, shape: Sequence[int]) -> Layout:
    """An input's own: examples, then an axis for each further dimension."""
    axes = (tidy((Cells(extent, (Look(index, axis, 1.0, 0.0),)),)) for axis, extent in enumerate(shape) if axis)
    return ((Examples(shape[0]),), *axes) if len(shape) else ()


def tidy(dim: Iterable[Factor]) -> Dim:
    """Without factors of one cell; neighbours that continue each other are one."""
    found: list[Factor] = []
    for factor in dim:
        if factor.extent == 1 and isinstance(factor, (Plain, Cells)):
            continue
        before = found[-1] if found else None
        if isinstance(factor, Plain) and isinstance(before, Plain):
            found[-1] = Plain(before.extent * factor.extent, before.lost or factor.lost)
        elif isinstance(factor, Cells) and isinstance(before, Cells) and (both := _continued(before, factor)):
            found[-1] = both
        else:
            found.append(factor)
    return tuple(found)


def _continued(outer: Cells, inner: Cells) -> Cells | None:
    """Blocks of cells and the cells in them as cells."""
    if len(outer.looks) != len(inner.looks) or outer.roll != inner.roll:
        return None
    looks = []
    for one, other in zip(outer.looks, inner.looks, strict=True):
        if (one.input, one.axis) != (other.input, other.axis):
            return None
        if not math.isclose(one.stride, other.stride * inner.extent, rel_tol=1e-6):
            return None
        looks.append(replace(other, offset=one.offset + other.offset, spread=one.spread + other.spread))
    mixed, resampled = outer.mixed or inner.mixed, outer.resampled or inner.resampled
    return Cells(outer.extent * inner.extent, tuple(looks), outer.roll, mixed, resampled)


def split(factor: Factor, outer: int) -> tuple[Factor, Factor]:
    """A factor as ``outer`` blocks and what is in one."""
    inner, rest = divmod(factor.extent, outer)
    if rest or isinstance(factor, Joined):
        raise Unknown
    if isinstance(factor, Plain):
        return replace(factor, extent=outer), replace(factor, extent=inner)
    if isinstance(factor, Examples):
        raise Unknown  # a part of the examples is none of the examples
    blocks = tuple(replace(look, stride=look.stride * inner) for look in factor.looks)
    within = tuple(replace(look, offset=0.0, spread=0.0) for look in factor.looks)
    return replace(factor, extent=outer, looks=blocks), replace(factor, extent=inner, looks=within)


def regroup(layout: Layout, sizes: Sequence[int]) -> Layout:
    """Of a view in other sizes."""
    if 0 in sizes:
        raise Unknown
    waiting = [factor for dim in layout for factor in dim][::-1]
    found: list[Dim] = []
    for place, size in enumerate(sizes):
        dim: list[Factor] = []
        need = size
        while waiting:
            factor = waiting[-1]
            if factor.extent == 1:
                # One example: a dimension of its own where there is one of size 1, else with its neighbour.
                last = place + 1 == len(sizes)
                if need == 1 and dim and not last and sizes[place + 1] == 1:
                    break
                if need == 1 and not dim and size != 1:
                    break
                dim.append(waiting.pop())
            elif need == 1:
                break
            elif need % factor.extent == 0:
                need //= factor.extent
                dim.append(waiting.pop())
            else:
                outer, inner = split(waiting.pop(), need)
                waiting.append(inner)
                dim.append(outer)
                need = 1
        if need != 1:
            raise Unknown
        found.append(tidy(dim))
    return tuple(found)


def without(layout: Layout, dims: Iterable[int], keep: bool = False) -> Layout:
    """Dimensions gone, as by a mean or a product: what stays of their axes looks at their middle."""
    gone = set(dims)
    return _gone(layout, gone, {}, keep)


def selected(layout: Layout, dim: int, index: int) -> Layout:
    """One index of a dimension."""
    at: dict[int, int] = {}
    if len(layout[dim]) == 1 and isinstance(layout[dim][0], Cells):
        at = {dim: index}
    elif any(isinstance(factor, Joined) for factor in layout[dim]):
        layout = tuple(lost(size_of(each)) if place == dim else each for place, each in enumerate(layout))
    return _gone(layout, {dim}, at, keep=False)


def _gone(layout: Layout, gone: set[int], at: dict[int, int], keep: bool) -> Layout:
    shifts: dict[tuple[int, int], float] = {}
    for dim in gone:
        for factor in layout[dim]:
            if isinstance(factor, Cells):
                index = at.get(dim, (factor.extent - 1) / 2)
                for look in factor.looks:
                    key = look.input, look.axis
                    shifts[key] = shifts.get(key, 0.0) + look.offset + index * look.stride
    rest = [() if place in gone else dim for place, dim in enumerate(layout) if keep or place not in gone]
    return moved(rest, shifts) if shifts else tuple(rest)


def moved(layout: Iterable[Dim], shifts: dict[tuple[int, int], float]) -> Layout:
    """The coarsest cells of each axis elsewhere by as many of the input's elements."""
    dims = list(layout)
    for (which, axis), shift in shifts.items():
        if not shift:
            continue
        held = [
            (abs(look.stride), place, number)
            for place, dim in enumerate(dims)
            for number, factor in enumerate(dim)
            if isinstance(factor, Cells)
            for look in factor.looks
            if (look.input, look.axis) == (which, axis)
        ]
        if held:
            _, place, number = max(held)
            factor = dims[place][number]
            assert isinstance(factor, Cells)
            looks = tuple(
                replace(look, offset=look.offset + shift) if (look.input, look.axis) == (which, axis) else look
                for look in factor.looks
            )
            dims[place] = (*dims[place][:number], replace(factor, looks=looks), *dims[place][number + 1 :])
    return tuple(dims)


def alone(dim: Dim) -> Cells | None:
    """The cells of a dimension that is made of nothing else."""
    return dim[0] if len(dim) == 1 and isinstance(dim[0], Cells) else None


def spaced(cells: Cells, extent: int, step: float, start: float, *, resampled: bool = False) -> Dim:
    """Others in their place: number i where number ``start + i * step`` was."""
    if cells.roll:
        raise Unknown
    looks = tuple(
        replace(look, stride=look.stride * step, offset=look.offset + look.stride * start) for look in cells.looks
    )
    return tidy((replace(cells, extent=extent, looks=looks, resampled=cells.resampled or resampled),))


def merged(one: Layout, other: Layout) -> Layout:
    """Of two tensors that an operation takes element by element, with PyTorch's broadcasting."""
    width = max(len(one), len(other))
    padded = [((),) * (width - len(each)) + each for each in (one, other)]
    return tuple(_both(*pair) for pair in zip(*padded, strict=True))


def _both(one: Dim, other: Dim) -> Dim:
    if one == other or not other:
        return one
    if not one:
        return other
    extent = size_of(one)
    if size_of(other) != extent:  # of one row, say
        return one if size_of(other) == 1 else other if extent == 1 else lost(max(extent, size_of(other)))
    for kept, left_out in ((one, other), (other, one)):
        if len(left_out) == 1 and isinstance(left_out[0], Plain):
            known = len(kept) == 1 and kept[0] == Plain(extent)
            return left_out if known else kept
    left, right = list(one)[::-1], list(other)[::-1]
    found: list[Factor] = []
    try:
        while left and right:
            a, b = left.pop(), right.pop()
            if a.extent != b.extent and 1 not in (a.extent, b.extent):
                smaller = min(a.extent, b.extent)
                if a.extent > smaller:
                    a, rest = split(a, smaller)
                    left.append(rest)
                else:
                    b, rest = split(b, smaller)
                    right.append(rest)
            elif a.extent != b.extent:
                if a.extent == 1:
                    right.append(b)
                    found.append(a)
                else:
                    left.append(a)
                    found.append(b)
            else:
                found.append(_pair(a, b))
    except Unknown:
        return lost(extent)
    return tidy(found + left[::-1] + right[::-1])


def _pair(one: Factor, other: Factor) -> Factor:
    if isinstance(one, Plain) and isinstance(other, Plain):
        return one if one.lost else other
    if isinstance(other, Plain) or one == other:
        return one
    if isinstance(one, Plain):
        return other
    if isinstance(one, Cells) and isinstance(other, Cells):
        return _both_look(one, other)
    if not isinstance(one, Joined) or not isinstance(other, Joined):
        raise Unknown
    if [size_of(part) for part in one.parts] != [size_of(part) for part in other.parts]:
        raise Unknown
    return Joined(tuple(_both(*pair) for pair in zip(one.parts, other.parts, strict=True)))


def _both_look(one: Cells, other: Cells) -> Factor:
    """Cells that hold what two held: of one input in one place, or of two inputs."""
    if one.mixed != other.mixed:  # what is local tells where the sum looks
        kept, left = (other, one) if one.mixed else (one, other)
        known = {look.input for look in kept.looks}
        return replace(kept, looks=kept.looks + tuple(look for look in left.looks if look.input not in known))
    if one.roll != other.roll:
        raise Unknown
    looks = {look.input: look for look in one.looks}
    for look in other.looks:
        mine = looks.get(look.input)
        if mine is None:
            looks[look.input] = look
            continue
        near = mine.axis == look.axis and math.isclose(mine.stride, look.stride, rel_tol=0.05)
        apart = abs(mine.offset - look.offset)
        if not near or apart > 1.5 * abs(mine.stride):
            raise Unknown
        low = min(mine.offset - mine.spread, look.offset - look.spread)
        high = max(mine.offset + mine.spread, look.offset + look.spread)
        looks[look.input] = replace(mine, offset=(low + high) / 2, spread=(high - low) / 2)
    resampled = one.resampled and other.resampled
    return replace(one, looks=tuple(looks[key] for key in sorted(looks)), resampled=resampled)
