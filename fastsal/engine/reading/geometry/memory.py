"""Geometries that are known, by model, layer, run, and the inputs' shapes and dtypes; none keeps a module alive.

They are forgotten where the model is no longer built as it was.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastsal.engine.reading.geometry.record import Geometry, Unsettled
from fastsal.engine.reading.geometry.structure import Structure
from fastsal.engine.run.caches import on_clearing
from fastsal.engine.run.modules import WhileAlive, modules_of

Kind = tuple[Any, ...]
_Known = dict[tuple[int, Kind], "Geometry | Unsettled"]
_kept: WhileAlive[WhileAlive[_Known]] = WhileAlive()
"""By what is called, then by layer."""


class _Built(NamedTuple):
    """How a model was built when its geometries were found.

    Attributes:
        modules: that it runs, by id; none as long as that is not known.
        structure: of these.
        number: another one whenever the geometries were forgotten.
    """

    modules: tuple[int, ...]
    structure: Structure
    number: int


_built: WhileAlive[_Built] = WhileAlive()
"""By what is called."""
_numbers = itertools.count(1)
on_clearing(_kept.clear)
on_clearing(_built.clear)
MOST = 64
"""Runs and forms of input of a layer; the oldest is forgotten."""


def kind_of(inputs: tuple[Any, ...]) -> Kind:
    """Shapes and dtypes of inputs, for any number of examples but one, which may hide in any dimension of size 1."""
    kinds: list[Any] = []
    for value in inputs:
        if isinstance(value, Tensor):
            shape = tuple(value.shape)
            kinds.append((shape[1:], value.dtype, shape[:1] in ((), (1,))))
        else:
            kinds.append(type(value).__qualname__)
    return tuple(kinds)


def for_another_number(kind: Kind) -> Kind:
    """The same of one example for several, and of several for one."""
    return tuple((*each[:2], not each[2]) if isinstance(each, tuple) else each for each in kind)


def _of_callable(model: Callable[..., Any]) -> Any:
    # Bound methods are made anew each time.
    return model.__self__ if isinstance(model, types.MethodType) else model


def version(model: Callable[..., Any]) -> int:
    """A number that is another one where the model was changed since its geometries were found, which are gone then.

    It is asked before each pass that is explained. Parts, classes, forwards and attributes of the model's own classes
    count, but for attributes that a pass itself writes. A callable that cannot be referred to weakly has none, and
    nothing is remembered of it.
    """
    called, found = _of_callable(model), modules_of(model)
    built, modules = _built.get(called), tuple(map(id, found))
    if built is None or not built.modules:
        number = next(_numbers) if built is None else built.number
        built = _Built(modules, Structure(found), number)
    else:
        if modules == built.modules and not built.structure.changes():
            return built.number
        built = _Built(modules, Structure(found, built.structure.ignored), next(_numbers))
        _kept.drop(called)
    try:
        _built.set(called, built)
    except TypeError:
        return 0
    return built.number


def recall(model: Callable[..., Any], layer: nn.Module, run: int, kind: Kind) -> Geometry | Unsettled | None:
    """What is known of a layer: its geometry, or why it has none; None where it was not asked yet."""
    layers = _kept.get(_of_callable(model))
    known = None if layers is None else layers.get(layer)
    return None if known is None else known.get((run, kind))


def remember(model: Callable[..., Any], layer: nn.Module, run: int, kind: Kind, found: Geometry | Unsettled) -> None:
    """Keep it as long as model and layer live; nothing for a callable that cannot be referred to weakly."""
    called = _of_callable(model)
    layers = _kept.get(called)
    try:
        if layers is None:
            layers = WhileAlive()
            _kept.set(called, layers)
        known = layers.get(layer)
        if known is None:
            known = {}
            layers.set(layer, known)
    except TypeError:
        return
    known[run, kind] = found.again() if isinstance(found, Unsettled) else found
    if len(known) > MOST:
        known.pop(next(iter(list(known))), None)
    built, modules = _built.get(called), modules_of(model)
    if built is None:
        return
    written = built.structure.changes()
    if written or not built.modules:  # by the pass that has just been made, which also tells what a function runs
        structure = Structure(modules, built.structure.ignored | written)
        _built.set(called, _Built(tuple(map(id, modules)), structure, built.number))
