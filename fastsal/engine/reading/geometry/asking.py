"""The one place that answers where a layer's positions are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal._torch import tree_leaves
from fastsal.engine.reading.geometry.layout import Layout
from fastsal.engine.reading.geometry.lineage import Lineage
from fastsal.engine.reading.geometry.measuring import measured
from fastsal.engine.reading.geometry.memory import kind_of, recall, remember, version
from fastsal.engine.reading.geometry.proof import Folded, Refuted, Unproved, has_places, proved
from fastsal.engine.reading.geometry.record import Geometry, Unsettled
from fastsal.engine.reading.resolving import prepared_of, resolve_layer, the_module
from fastsal.engine.run.forward import evaluation, find, one_example, run
from fastsal.engine.run.own import Undone


class Seen(NamedTuple):
    """One run of a module in a pass.

    Attributes:
        name: the module's dotted name.
        module: itself.
        run, runs: which of its runs, from 0, of how many.
        shape: of its output.
        found: the geometry, or why there is none.
        settled: whether that is known; else measuring may tell more.
        doubtful: whether it might be otherwise for two examples.
    """

    name: str
    module: nn.Module
    run: int
    runs: int
    shape: tuple[int, ...]
    found: Geometry | str
    settled: bool
    doubtful: bool


class Survey(NamedTuple):
    """What one pass showed.

    Attributes:
        seen: each run of each module whose output is one tensor, in the order in which they ended.
        dense: whether the model's output has places itself, as of a segmentation, or may have.
    """

    seen: list[Seen]
    dense: bool


INDEPENDENT = "it is not known to depend on the input"


class Noted(NamedTuple):
    """What a pass left of a layer's value: shape and layout, None where no input is known to be in it."""

    shape: tuple[int, ...]
    layout: Layout | None


def judged(noted: Noted, lineage: Lineage, which: int | None = None) -> tuple[Geometry | str, bool, bool]:
    """Of a value, after the pass: the geometry or why there is none; :attr:`Seen.settled`; :attr:`Seen.doubtful`."""
    if noted.layout is None:
        return INDEPENDENT, False, False
    alone = any(shape[:1] == (1,) for shape in lineage.extents)
    try:
        return proved(noted.layout, lineage, which), True, False
    except Refuted as error:
        return str(error), True, alone and isinstance(error, Folded)
    except Unproved as error:
        return str(error), False, alone


def settled(
    model: Callable[..., Any],
    layer: nn.Module,
    name: str | None,
    noted: Noted,
    lineage: Lineage,
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...] = (),
) -> Geometry:
    """The geometry of a layer's last run, from a pass that has been made; kept as long as model and layer live.

    Raises:
        Unsettled: where it is not known which dimensions are positions.
    """
    found, known, doubtful = judged(noted, lineage)
    if doubtful:
        seen = [each for each in survey(model, inputs, additional, copies=2).seen if each.module is layer]
        if seen:
            found, known = seen[-1].found, seen[-1].settled
    if not known:
        found = _measured(found, model, layer, -1, inputs, additional)
    return _kept(model, layer, -1, inputs, (name or type(layer).__name__, noted.shape), found)


def _measured(
    unproved: Geometry | str,
    model: Callable[..., Any],
    layer: nn.Module,
    run: int,
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...],
) -> Geometry | str:
    found = measured(model, [(layer, run)], inputs, additional)[layer, run]
    return f"{unproved}, and {found}" if isinstance(found, str) else found


def measured_too(seen: list[Seen], model: Callable[..., Any], inputs: tuple[Any, ...], additional: Any) -> list[Seen]:
    """The same runs, with what measuring says of the last few that were not settled."""
    unsettled = [each for each in seen if _may_be_measured(each)][-MOST_MEASURED:]
    if not unsettled:
        return seen
    found = measured(model, [(each.module, each.run) for each in unsettled], inputs, additional)

    def told(each: Seen) -> Seen:
        now = found[each.module, each.run]
        return each._replace(found=f"{each.found}, and {now}" if isinstance(now, str) else now, settled=True)

    return [told(each) if each in unsettled else each for each in seen]


MOST_MEASURED = 6
"""Of a model's layers where none is asked for by name: each takes near a tenth of a second."""


def _may_be_measured(seen: Seen) -> bool:
    wide = sum(1 for extent in seen.shape if extent > 1)
    return not seen.settled and seen.found != INDEPENDENT and wide > 1 and not isinstance(seen.module, nn.Linear)


def _kept(
    model: Callable[..., Any],
    layer: nn.Module,
    run: int,
    inputs: tuple[Any, ...],
    named: tuple[str, tuple[int, ...]],
    found: Geometry | str,
) -> Geometry:
    known = Unsettled(*named, found) if isinstance(found, str) else found
    remember(model, layer, run, kind_of(inputs), known)
    if isinstance(known, Unsettled):
        raise known
    return known


def survey(
    model: Callable[..., Any], inputs: tuple[Any, ...], additional: tuple[Any, ...] = (), copies: int = 1
) -> Survey:
    """The geometry of each run of each module whose output is one tensor; costs one pass of one example.

    Args:
        model: module or callable around one.
        inputs, additional: arguments of the model; it gets copies.
        copies: of the example; where one left a doubt a pass of two follows by itself.

    Raises:
        TypeError: where there is not one module behind the model.
    """
    lineage = Lineage()
    noted: list[tuple[str, nn.Module, Noted]] = []

    def reader(name: str) -> Callable[..., None]:
        def visit(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.dim():
                noted.append((name, module, Noted(tuple(output.shape), lineage.layout(output))))

        return visit

    with evaluation(model, eager=True), torch.no_grad():
        find(model, inputs, additional)
        module, folded = the_module(model), {part for each in prepared_of(model) for part in each.folded}
        with Undone() as undone:
            for name, part in module.named_modules():
                if name and part not in folded:
                    undone.hook(part, reader(name))
            rows, extra = (tuple(_copied(value, copies) for value in each) for each in one_example(inputs, additional))
            with lineage:
                lineage.begin(rows)
                output = run(model, rows, extra)
    counts: dict[str, int] = {}
    for name, _, _ in noted:
        counts[name] = counts.get(name, 0) + 1
    so_far: dict[str, int] = {}
    seen = []
    for name, part, each in noted:
        number = so_far.get(name, 0)
        so_far[name] = number + 1
        found, is_settled, doubtful = judged(each, lineage)
        shape = each.shape
        if isinstance(found, Geometry):  # as of one copy
            at = found.examples
            shape = (*shape[:at], shape[at] // copies, *shape[at + 1 :])
        seen.append(Seen(name, part, number, counts[name], shape, found, is_settled, doubtful))
    if copies == 1 and any(each.doubtful for each in seen):
        with contextlib.suppress(RuntimeError, ValueError, TypeError, IndexError):  # of a model of one example
            return survey(model, inputs, additional, copies=2)
    answers = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return Survey(seen, any(layout is not None and has_places(layout) for layout in map(lineage.layout, answers)))


def _copied(value: Any, copies: int) -> Any:
    is_row = copies > 1 and isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == 1
    return value.repeat(copies, *[1] * (value.dim() - 1)) if is_row else value


def geometry_of(
    model: Callable[..., Any],
    layer: nn.Module | str,
    inputs: tuple[Any, ...],
    additional: tuple[Any, ...] = (),
    *,
    run: int = -1,
) -> Geometry:
    """The geometry of a layer's output, for inputs of these shapes; of its last run, or of another.

    It is asked once: what was found is kept as long as model and layer live.

    Args:
        model: module or callable around one.
        layer: one of its modules, or its dotted name.
        inputs, additional: arguments of the model; it gets copies.
        run: which of the layer's runs in a pass, from 0; -1 is the last.

    Raises:
        Unsettled: where it is not known which dimensions are positions.
        ValueError: for a layer that the model does not run, or that has no tensor.
    """
    part = resolve_layer(model, layer)
    version(model)
    known = recall(model, part, run, kind_of(inputs))
    if isinstance(known, Unsettled):
        raise known.again()
    if known is not None:
        return known
    seen = [each for each in survey(model, inputs, additional).seen if each.module is part]
    if not seen:
        raise ValueError("layer: the model did not run it, or its output is not one tensor; choose one inside it")
    if not -len(seen) <= run < len(seen):
        raise ValueError(f"run: {run} is out of range for a layer that ran {len(seen)} times")
    found = seen[run].found
    if not seen[run].settled:
        found = _measured(found, model, part, seen[run].run, inputs, additional)
    return _kept(model, part, run, inputs, (seen[run].name, seen[run].shape), found)
