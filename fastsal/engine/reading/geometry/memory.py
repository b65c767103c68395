"""Geometries that are known, by model, layer, run, and the inputs' shapes and dtypes; none keeps a module alive."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fastsal.engine.reading.geometry.record import Geometry, Unsettled
from fastsal.engine.run.caches import on_clearing
from fastsal.engine.run.modules import WhileAlive

Kind = tuple[Any, ...]
_Known = dict[tuple[int, Kind], "Geometry | Unsettled"]
_kept: WhileAlive[WhileAlive[_Known]] = WhileAlive()
"""By what is called, then by layer."""
on_clearing(_kept.clear)
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
