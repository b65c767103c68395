"""A layer's geometry from the layout of its value."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from fastsal.engine.reading.geometry.layout import Cells, Dim, Examples, Joined, Layout, Plain, size_of, without
from fastsal.engine.reading.geometry.lineage import Lineage
from fastsal.engine.reading.geometry.record import Geometry


class Refuted(Exception):
    """A layer is known to have no positions of the asked kind; the message says why."""


class Unproved(Exception):
    """Some operation on the way to a layer is not known; the message says what."""


class Folded(Refuted):
    """Rows are examples and others; of one example alone it may also be that views hide where it is."""


def proved(layout: Layout, lineage: Lineage, which: int | None = None) -> Geometry:
    """The geometry of a tensor.

    Args:
        layout: the tensor's.
        lineage: of the pass, after its end.
        which: the input that the positions are to look at; None takes the first that they do.

    Raises:
        Refuted: where it has none.
        Unproved: where that is not known.
    """
    if not any(map(_cells, layout)) and not any(map(_lost, layout)):
        raise Refuted("none of its dimensions follows the input")
    examples = _examples(layout)
    inputs = sorted({look.input for dim in layout for cells in _cells(dim) for look in cells.looks})
    if which is not None:
        inputs = [which] if which in inputs else []
    if not inputs:
        if sum(1 for place, dim in enumerate(layout) if place != examples and size_of(dim) > 1) < 2:
            raise Refuted("it has no dimension for positions beside its channels")
        if not any(map(_lost, layout)):
            raise Refuted("none of its dimensions follows the input")
        raise Unproved("none of its dimensions is known to follow the input")
    others = []
    for each in inputs[1:]:
        with contextlib.suppress(Refuted, Unproved):
            others.append(_of_input(layout, lineage, examples, each))
    return replace(_of_input(layout, lineage, examples, inputs[0]), also=tuple(inputs[1:]), others=tuple(others))


def cells_along(dim: Dim, which: int) -> tuple[int, list[Cells], int] | None:
    """(tokens before, cells that look at an input, tokens behind) of a dimension; None of one made otherwise."""
    if not _looks_at(dim, which) or _lost(dim):
        return None
    try:
        before, cells, behind = _positions(dim, which)
    except Refuted:
        return None
    return (before, cells, behind) if all(_looks_at((each,), which) for each in cells) else None


def examples_alone(dim: Dim) -> bool:
    """Whether a dimension is the examples, with nothing folded into them."""
    return len(dim) == 1 and isinstance(dim[0], Examples)


def has_places(layout: Layout) -> bool:
    """Whether a tensor follows the input's axes somewhere, or may."""
    return any(_cells(dim) or _lost(dim) for dim in layout)


def _examples(layout: Layout) -> int:
    holding = [place for place, dim in enumerate(layout) if any(isinstance(factor, Examples) for factor in dim)]
    if not holding:
        raise Unproved("the dimension of its examples is not known")
    place = holding[0]
    if len(layout[place]) > 1:
        count = next(factor.extent for factor in layout[place] if isinstance(factor, Examples))
        raise Folded(f"its {size_of(layout[place])} rows are {count} examples times others folded into them")
    return place


def _of_input(layout: Layout, lineage: Lineage, examples: int, which: int) -> Geometry:
    extents = lineage.extents[which]
    contracted = [*lineage.contracted.get(which, []), 1]
    inner = _inner(layout, examples, which, contracted[0])
    if inner is not None:  # what is within a position: its pixels, as channels
        layout = without(layout, [inner], keep=True)
    dims = {place: dim for place, dim in enumerate(layout) if place != examples}
    following = {place: dim for place, dim in dims.items() if _looks_at(dim, which)}
    others = [place for place, dim in dims.items() if place not in following and size_of(dim) > 1]
    others += [] if inner is None else [inner]
    spare = [place for place, dim in dims.items() if size_of(dim) == 1 and place not in following and place != inner]
    if not others and not spare and len(following) > 1:
        place = _channels_among(following, contracted, which)
        following = {at: dim for at, dim in following.items() if at != place}
        others = [place]
    if len(others) > 1:
        if any(_lost(dims[place]) for place in others):
            raise Unproved("not all of its dimensions are known")
        raise Refuted(f"its dimensions {' and '.join(map(str, others))} follow no axis of the input: heads, or queries")
    if not others:
        if not spare:
            raise Refuted("it has no dimension of channels beside its positions")
        others = spare[:1]
    if any(_places_of_another(dims[place], which, lineage) for place in others if place in dims):
        raise Refuted(f"its dimension {others[0]} follows another input: it is of one input's places and the other's")
    ones = [place for place in dims if place not in following and place != others[0]]
    if ones:
        raise Refuted(f"its dimension {ones[0]} of one element is neither channels nor positions")
    positions: list[int] = []
    cells: list[Cells] = []
    before = behind = 0
    for place, dim in following.items():
        front, found, back = _positions(dim, which)
        if (front or back) and len(following) > 1:
            raise Refuted(f"its dimension {place} holds more than positions")
        before, behind = before + front, behind + back
        positions += [place] * len(found)
        cells += found
    looks = [next(look for look in each.looks if look.input == which) for each in cells]
    axes = [look.axis for look in looks]
    if len(set(axes)) < len(axes):
        twice = next(axis for axis in axes if axes.count(axis) > 1)
        where = sorted({place for place, axis in zip(positions, axes, strict=True) if axis == twice})
        if len(where) > 1:
            raise Refuted(f"its dimensions {' and '.join(map(str, where))} both follow dimension {twice} of the input")
        raise Refuted("its positions are in windows")
    if any(each.roll for each in cells):
        raise Refuted("its positions are rolled around")
    return Geometry(
        examples,
        others[0],
        tuple(positions),
        which,
        tuple(axes),
        tuple(each.extent for each in cells),
        before,
        behind,
        tuple(look.offset for look in looks),
        tuple(look.stride for look in looks),
        "proved",
        tuple(extents[axis] for axis in axes),
        not any(each.mixed for each in cells),
        any(each.resampled for each in cells),
    )


def _places_of_another(dim: Dim, which: int, lineage: Lineage) -> bool:
    """Whether a dimension follows positions of another input, rather than its features."""
    looks = {(look.input, look.axis) for cells in _cells(dim) for look in cells.looks if look.input != which}
    return any(axis != lineage.features(index) for index, axis in looks)


def _channels_among(following: dict[int, Dim], contracted: list[int], which: int) -> int:
    """The dimension of an input's own channels, where a layer still has it: the first that products take sums over."""
    for axis in contracted:
        for place, dim in following.items():
            found = {look.axis for cells in _cells(dim) for look in cells.looks if look.input == which}
            if found == {axis}:
                return place
    raise Refuted("it has no dimension of channels beside its positions")


def _inner(layout: Layout, examples: int, which: int, channels: int) -> int | None:
    """The dimension of what lies between the cells of others, as pixels of a patch do; None where there is none."""
    steps = [
        {look.axis: abs(look.stride) for cells in _cells(dim) for look in cells.looks if look.input == which}
        for dim in layout
    ]
    for place, mine in enumerate(steps):
        between = {
            axis
            for axis, step in mine.items()
            if any(other.get(axis, 0.0) > step for at, other in enumerate(steps) if at != place)
        }
        if place != examples and between and set(mine) <= between | {channels}:
            return place
    return None


def _positions(dim: Dim, which: int) -> tuple[int, list[Cells], int]:
    """Tokens before, cells, tokens behind."""
    if len(dim) == 1 and isinstance(dim[0], Joined):
        parts = dim[0].parts
        holding = [place for place, part in enumerate(parts) if _looks_at(part, which)]
        if len(holding) > 1:
            raise Refuted("several grids of the input are one behind the other in it")
        front, part, back = parts[: holding[0]], parts[holding[0]], parts[holding[0] + 1 :]
        inner = _positions(part, which)
        return sum(map(size_of, front)) + inner[0], inner[1], sum(map(size_of, back)) + inner[2]
    cells = [factor for factor in dim if isinstance(factor, Cells)]
    if len(cells) < len(dim):
        raise Refuted("its channels and positions are in one dimension")
    return 0, cells, 0


def _cells(dim: Dim) -> list[Cells]:
    found: list[Cells] = []
    for factor in dim:
        if isinstance(factor, Cells):
            found.append(factor)
        elif isinstance(factor, Joined):
            found += [cells for part in factor.parts for cells in _cells(part)]
    return found


def _lost(dim: Dim) -> bool:
    parts = (part for factor in dim if isinstance(factor, Joined) for part in factor.parts)
    return any(isinstance(factor, Plain) and factor.lost for factor in dim) or any(map(_lost, parts))


def _looks_at(dim: Dim, which: int) -> bool:
    return any(look.input == which for cells in _cells(dim) for look in cells.looks)
