"""Rules of operations that give a tensor other dimensions, or a part of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fastsal.engine.reading.geometry.layout import (
    Cells,
    Dim,
    Examples,
    Joined,
    Layout,
    Plain,
    Unknown,
    alone,
    lost,
    merged,
    plain,
    regroup,
    selected,
    size_of,
    spaced,
    tidy,
    without,
)
from fastsal.engine.reading.geometry.rule import Operation, rule


@rule(
    "view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy", "flatten", "unflatten", "view_as"
)
def _view(call: Operation) -> Layout:
    return regroup(call.first, call.shape)


@rule("permute", "permute_copy")
def _permute(call: Operation) -> Layout:
    layout = call.first
    return tuple(layout[dim] for dim in call["dims"])


@rule("t", "mT", "numpy_T")
def _t(call: Operation) -> Layout:
    return call.first[::-1]


@rule("transpose", "transpose_copy", "swapaxes", "transpose_")
def _transpose(call: Operation) -> Layout:
    layout = list(call.first)
    one, other = call.at(1), call.at(2)
    if layout:
        layout[one], layout[other] = layout[other], layout[one]
    return tuple(layout)


@rule("movedim")
def _movedim(call: Operation) -> Layout:
    layout, count = call.first, len(call.first)
    source, target = (
        [each % count for each in (value if isinstance(value, Sequence) else (value,))]
        for value in (call.at(1), call.at(2))
    )
    rest = iter(dim for dim in range(count) if dim not in source)
    back = dict(zip(target, source, strict=True))
    return tuple(layout[back[place] if place in back else next(rest)] for place in range(count))


@rule("unsqueeze", "unsqueeze_copy")
def _unsqueeze(call: Operation) -> Layout:
    layout = list(call.first)
    layout.insert(call["dim"] % (len(layout) + 1), ())
    return tuple(layout)


@rule("squeeze", "squeeze_copy")
def _squeeze(call: Operation) -> Layout:
    layout = call.first
    given = call.at(1)
    which = range(len(layout)) if given is None else [given] if isinstance(given, int) else given
    gone = {dim % len(layout) for dim in which if size_of(layout[dim]) == 1} if layout else set()
    return tuple(dim for place, dim in enumerate(layout) if place not in gone)


@rule("expand", "expand_copy", "repeat", "expand_as", "broadcast_to", "tile")
def _expand(call: Operation) -> Layout:
    layout, shape = call.first, call.shape
    padded = ((),) * (len(shape) - len(layout)) + layout
    return tuple(
        dim if size_of(dim) == size else plain(size) if size_of(dim) == 1 else _unlike(dim, size)
        for dim, size in zip(padded, shape, strict=True)
    )


@rule("slice", "narrow", "slice_copy")
def _slice(call: Operation) -> Layout:
    layout = call.first
    dim = call["dim"] % len(layout)
    extent = size_of(layout[dim])
    if call.func._schema.name == "aten::narrow":
        start, step, size = call["start"], 1, call["length"]
        start = start + extent if start < 0 else start
    else:
        start, step, size = call["start"] or 0, call["step"] or 1, call.shape[dim]
        start = min(max(start + extent if start < 0 else start, 0), extent)
    return (*layout[:dim], _part(layout[dim], start, size, step), *layout[dim + 1 :])


def _part(dim: Dim, start: int, size: int, step: int = 1) -> Dim:
    """Numbers ``start``, ``start + step``, ... of a dimension."""
    if start == 0 and step == 1 and size == size_of(dim):
        return dim
    cells = alone(dim)
    if cells is not None:
        return lost(size) if cells.roll else spaced(cells, size, step, start)
    if len(dim) == 1 and isinstance(dim[0], Joined) and step == 1:
        return _of_joined(dim[0], start, size)
    if dim and step == 1 and isinstance(dim[0], Cells):  # whole rows of a list of cells
        within = size_of(dim[1:])
        if start % within == 0 and size % within == 0 and not dim[0].roll:
            return tidy((*spaced(dim[0], size // within, 1, start // within), *dim[1:]))
    if all(isinstance(factor, Plain) for factor in dim):
        return lost(size) if any(factor.lost for factor in dim if isinstance(factor, Plain)) else plain(size)
    return lost(size)


def _of_joined(joined: Joined, start: int, size: int) -> Dim:
    kept: list[Dim] = []
    begins = 0
    for part in joined.parts:
        extent = size_of(part)
        first, last = max(start - begins, 0), min(start + size - begins, extent)
        if last > first:
            kept.append(_part(part, first, last - first))
        begins += extent
    return _joined(kept)


def _joined(parts: list[Dim]) -> Dim:
    """Parts one behind the other, as few as they can be."""
    flat: list[Dim] = []
    for part in parts:
        inner = part[0].parts if len(part) == 1 and isinstance(part[0], Joined) else (part,)
        for each in inner:
            if flat and (both := _follows(flat[-1], each)) is not None:
                flat[-1] = both
            else:
                flat.append(each)
    if len(flat) == 1:
        return flat[0]
    return (Joined(tuple(flat)),)


def _follows(one: Dim, other: Dim) -> Dim | None:
    """Two parts as one: of no place both, or cells that go on."""
    if all(not isinstance(factor, (Cells, Joined, Examples)) for factor in (*one, *other)):
        whole = size_of(one) + size_of(other)
        return (
            lost(whole) if any(factor.lost for factor in (*one, *other) if isinstance(factor, Plain)) else plain(whole)
        )
    a, b = alone(one), alone(other)
    if a is None or b is None or len(a.looks) != len(b.looks) or a.roll or b.roll:
        return None
    for mine, its in zip(a.looks, b.looks, strict=True):
        if (mine.input, mine.axis) != (its.input, its.axis) or not math.isclose(mine.stride, its.stride):
            return None
        if not math.isclose(its.offset, mine.offset + a.extent * mine.stride, abs_tol=1e-6):
            return None
    return (replace(a, extent=a.extent + b.extent),)


@rule("cat", "concat", "concatenate")
def _cat(call: Operation) -> Layout:
    tensors = [each for each in call.at(0) if each.dim() != 1 or each.numel()]
    width = tensors[0].dim()
    dim = (call["dim"] or 0) % width
    layouts = [call.layout(each) for each in tensors]
    known = [each for tensor in tensors if (each := call.known(tensor)) is not None]
    return (
        *_common(known, range(dim)),
        _joined([each[dim] for each in layouts]),
        *_common(known, range(dim + 1, width)),
    )


def _common(known: list[Layout], dims: range) -> Layout:
    found = tuple(known[0][dim] for dim in dims)
    for each in known[1:]:
        found = merged(found, tuple(each[dim] for dim in dims))
    return found


@rule("stack")
def _stack(call: Operation) -> Layout:
    tensors = call.at(0)
    known = [each for tensor in tensors if (each := call.known(tensor)) is not None]
    layout = list(_common(known, range(len(known[0]))))
    layout.insert((call["dim"] or 0) % (len(layout) + 1), plain(len(tensors)))
    return tuple(layout)


@rule("select", "select_copy")
def _select(call: Operation) -> Layout:
    layout = call.first
    dim = call["dim"] % len(layout)
    extent = size_of(layout[dim])
    return selected(layout, dim, call["index"] % extent)


@rule("unbind", "unbind_copy")
def _unbind(call: Operation) -> list[Layout]:
    layout = call.first
    dim = (call["dim"] or 0) % len(layout)
    return [selected(layout, dim, index) for index in range(size_of(layout[dim]))]


@rule("split", "split_with_sizes", "chunk", "tensor_split", "split_copy", "split_with_sizes_copy", "unsafe_split")
def _split(call: Operation) -> list[Layout]:
    layout = call.first
    dim = (call["dim"] or 0) % len(layout)
    found, start = [], 0
    for piece in call.result:
        size = piece.shape[dim]
        found.append((*layout[:dim], _part(layout[dim], start, size), *layout[dim + 1 :]))
        start += size
    return found


@rule("constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d")
@rule("replication_pad2d", "replication_pad3d")
def _pad(call: Operation) -> Layout:
    layout, amounts, shape = list(call.first), call.at(1), call.shape
    for place in range(len(amounts) // 2):
        dim, before, behind = len(layout) - 1 - place, amounts[2 * place], amounts[2 * place + 1]
        if not before and not behind:
            continue
        cells = alone(layout[dim])
        tokens = len(layout[dim]) > 1 or any(isinstance(factor, Joined) for factor in layout[dim])
        if cells is None and tokens and before >= 0 and behind >= 0:
            parts = [(plain(extent),) if extent else () for extent in (before, behind)]
            layout[dim] = _joined([*parts[0], layout[dim], *parts[1]])
            continue
        layout[dim] = (
            _unlike(layout[dim], shape[dim]) if cells is None or cells.roll else spaced(cells, shape[dim], 1, -before)
        )
    return tuple(layout)


@rule("roll")
def _roll(call: Operation) -> Layout:
    layout, shifts, dims = list(call.first), call["shifts"], call["dims"]
    if not dims:
        raise Unknown
    for shift, dim in zip(shifts, dims, strict=True):
        cells = alone(layout[dim])
        extent = size_of(layout[dim])
        if cells is not None:
            layout[dim] = (replace(cells, roll=(cells.roll + shift) % extent),)
        elif any(isinstance(factor, (Cells, Joined)) for factor in layout[dim]):
            layout[dim] = lost(extent)
    return tuple(layout)


def _unlike(dim: Dim, extent: int) -> Dim:
    """Of other size, where its elements are in no known order."""
    return plain(extent) if all(isinstance(factor, Plain) and not factor.lost for factor in dim) else lost(extent)


@rule("flip")
def _flip(call: Operation) -> Layout:
    layout = list(call.first)
    for dim in call["dims"]:
        cells = alone(layout[dim])
        if cells is not None:
            layout[dim] = spaced(cells, cells.extent, -1, cells.extent - 1)
        elif any(isinstance(factor, (Cells, Joined)) for factor in layout[dim]):
            layout[dim] = lost(size_of(layout[dim]))
    return tuple(layout)


@rule("unfold", "unfold_copy")
def _unfold(call: Operation) -> Layout:
    layout = list(call.first)
    dim, size, step = call["dimension"] % len(layout), call["size"], call["step"]
    cells, count = alone(layout[dim]), call.shape[call["dimension"] % len(layout)]
    if cells is None:
        return (*layout[:dim], _unlike(layout[dim], count), *layout[dim + 1 :], _unlike(layout[dim], size))
    inner = replace(cells, looks=tuple(replace(look, offset=0.0) for look in cells.looks))
    return (*layout[:dim], spaced(cells, count, step, 0), *layout[dim + 1 :], spaced(inner, size, 1, 0))


@rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "logsumexp",
    "prod",
    "norm",
    "linalg_vector_norm",
    "median",
)
@rule("var_mean", "std_mean", "any", "all", "argmax", "argmin", "nansum")
def _reduce(call: Operation) -> Layout:
    layout, names = call.first, {argument.name for argument in call.func._schema.arguments}
    if call.func._schema.name in ("aten::max", "aten::min") and "dim" not in names:
        if "other" in names:
            raise Unknown  # an elementwise one is tagged so, and does not come here
        return ()
    given = call["dim"] if "dim" in names else None
    dims = range(len(layout)) if given is None or given == [] else [given] if isinstance(given, int) else given
    keep = bool(call["keepdim"]) if "keepdim" in names else False
    return without(layout, {dim % len(layout) for dim in dims} if layout else (), keep)
