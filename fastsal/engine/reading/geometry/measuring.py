"""Geometries that are measured: a batch in which blocks of an input change, and one in which bands do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.reading.geometry.bands import Bands, bands_of
from fastsal.engine.reading.geometry.blocks import Blocks, blocks_of
from fastsal.engine.reading.geometry.confirming import confirmed
from fastsal.engine.reading.geometry.hypotheses import HARDLY, best_reading
from fastsal.engine.reading.geometry.hypotheses import Reading as BlockReading
from fastsal.engine.reading.geometry.record import Geometry
from fastsal.engine.run.forward import evaluation, one_example, run, scratch
from fastsal.engine.run.own import Undone

NO_BLOCKS = "no input has blocks to change"
NOT_IN_A_BATCH = "the model does not run it in a batch as it does alone"
_NOISE = 1e-5
"""Of a layer's greatest value: changes below it are of rounding."""
Wanted = tuple[nn.Module, int]
"""A module, and which of its runs, from 0; -1 is the last."""


def measured(
    model: Callable[..., Any],
    wanted: Sequence[Wanted],
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...] = (),
    which: int | None = None,
) -> dict[Wanted, Geometry | str]:
    """The geometry of each, or why there is none.

    Each input is changed in turn: one batch of 17 rows for each, with blocks of it changed, and one as large again with
    bands where the blocks suggest an answer; before them one pass of a row.

    Args:
        model: module or callable around one.
        wanted: what is asked for.
        inputs, additional: arguments of the model; it gets copies.
        which: the input that positions are to look at; None tries each.
    """
    found: dict[Wanted, dict[int, Geometry | str]] = {each: {} for each in wanted}
    with evaluation(model, eager=True), torch.no_grad():
        rows, extra = one_example(inputs, additional)
        shapes: dict[Wanted, tuple[int, ...]] = {}
        places = range(len(rows)) if which is None else [which]
        for place in places:
            value = rows[place]
            if not wanted or not isinstance(value, Tensor) or value.dim() < 2 or value.shape[0] != 1:
                continue
            blocks = blocks_of(value)
            if blocks is None:
                continue
            shapes = shapes or _shapes(model, wanted, rows, extra)
            changes = _changes(model, shapes, rows, extra, place, blocks.rows)
            shown = {each: _read(changes.get(each), blocks, place) for each in wanted}
            likely = {each: known[0] for each, known in shown.items() if not isinstance(known, str)}
            against: dict[Wanted, str | None] = {}
            if likely:  # what blocks suggest bands must confirm
                bands = bands_of(value, blocks.axes)
                of_these = {each: shapes[each] for each in likely}
                again = _changes(model, of_these, rows, extra, place, bands.rows)
                against = {each: _against(reading, again.get(each), bands) for each, reading in likely.items()}
            for each, known in shown.items():
                found[each][place] = known if isinstance(known, str) else against[each] or known[1]
    return {each: _together(shown) for each, shown in found.items()}


def _together(found: dict[int, Geometry | str]) -> Geometry | str:
    """What each input's blocks show of a layer, as one answer."""
    seen = {place: each for place, each in found.items() if each != HARDLY}
    known = [each for each in seen.values() if isinstance(each, Geometry)]
    if not known:
        return next((each for each in seen.values()), HARDLY if found else NO_BLOCKS)
    first = known[0]
    return replace(first, also=tuple(place for place in seen if place != first.input), others=tuple(known[1:]))


def _read(noted: _Change | None, blocks: Blocks, place: int) -> tuple[BlockReading, Geometry] | str:
    if noted is None:
        return NOT_IN_A_BATCH
    reading = noted.change if isinstance(noted.change, str) else best_reading(noted.change.cpu(), blocks)
    if isinstance(reading, str):
        return reading
    geometry = _geometry(reading, noted.shape, noted.examples, blocks, place)
    return geometry if isinstance(geometry, str) else (reading, geometry)


def _against(reading: BlockReading, noted: _Change | None, bands: Bands) -> str | None:
    if noted is None:
        return NOT_IN_A_BATCH
    return noted.change if isinstance(noted.change, str) else confirmed(reading, noted.change.cpu(), bands)


def _geometry(
    reading: BlockReading, shape: tuple[int, ...], examples: int, blocks: Blocks, place: int
) -> Geometry | str:
    dims = tuple(dim if dim < examples else dim + 1 for dim in reading.dims)
    rest = [dim for dim in range(len(shape)) if dim != examples and dim not in dims]
    several = [dim for dim in rest if shape[dim] > 1] or rest[:1]
    if len(several) != 1 or len(rest) != 1:
        return "it has more than one dimension of channels"
    extents = tuple(blocks.extents[axis] for axis in reading.axes)
    strides = tuple(extent / count for extent, count in zip(extents, reading.grid, strict=True))
    return Geometry(
        examples,
        several[0],
        dims,
        place,
        tuple(blocks.axes[axis] for axis in reading.axes),
        reading.grid,
        reading.before,
        reading.behind,
        tuple((stride - 1) / 2 for stride in strides),
        strides,
        "measured",
        extents,
    )


class _Change:
    """A layer's change, or why it tells nothing."""

    def __init__(self, alone: tuple[int, ...], batch: Tensor, count: int) -> None:
        self.shape, self.examples = alone, -1
        self.change: Tensor | str = "its rows are not the examples"
        if batch.dim() != len(alone):
            return
        grown = [dim for dim, (one, all_) in enumerate(zip(alone, batch.shape, strict=True)) if one != all_]
        if len(grown) != 1 or alone[grown[0]] != 1 or batch.shape[grown[0]] != count:
            return
        self.examples = grown[0]
        rows = batch.movedim(grown[0], 0).float()
        change = (rows[1:] - rows[:1]).abs()
        self.change = change if float(change.max()) > _NOISE * float(rows[0].abs().max()) else HARDLY


def _shapes(
    model: Callable[..., Any], wanted: Sequence[Wanted], rows: tuple[Any, ...], extra: tuple[Any, ...]
) -> dict[Wanted, tuple[int, ...]]:
    """Of the values of one example."""
    shapes: dict[Wanted, tuple[int, ...]] = {}

    def shape(key: Wanted, value: Tensor) -> None:
        shapes[key] = tuple(value.shape)

    _visited(model, wanted, rows, extra, shape)
    return shapes


def _changes(
    model: Callable[..., Any],
    shapes: dict[Wanted, tuple[int, ...]],
    rows: tuple[Any, ...],
    extra: tuple[Any, ...],
    place: int,
    altered: Tensor,
) -> dict[Wanted, _Change]:
    """Of the layers with these shapes, for an input's rows of which the first is as it is."""
    count = len(altered)
    found: dict[Wanted, _Change] = {}

    def change(key: Wanted, value: Tensor) -> None:
        found[key] = _Change(shapes[key], value, count)

    def tiled(value: Any) -> Any:
        return value.repeat(count, *[1] * (value.dim() - 1)) if _is_row(value) else value

    batch = tuple(altered if at == place else tiled(value) for at, value in enumerate(rows))
    try:
        _visited(model, list(shapes), batch, tuple(map(tiled, extra)), change)
    except (RuntimeError, ValueError, TypeError, IndexError):  # a model may take one example only
        return {}
    return found


def _is_row(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == 1


def _visited(
    model: Callable[..., Any],
    wanted: Sequence[Wanted],
    rows: tuple[Any, ...],
    extra: tuple[Any, ...],
    visit: Callable[[Wanted, Tensor], None],
) -> None:
    runs: dict[nn.Module, int] = {}

    def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
        number = runs[module] = runs.get(module, -1) + 1
        if isinstance(output, Tensor) and output.is_floating_point():
            for key in ((module, number), (module, -1)):
                if key in asked:
                    visit(key, output.detach())

    asked = set(wanted)
    with Undone() as undone:
        for module in {module for module, _ in wanted}:
            undone.hook(module, hook)
        run(model, tuple(map(scratch, rows)), tuple(map(scratch, extra)))
