"""Whether a model still is as it was when its geometries were found: its parts, their classes, forwards and attributes.

Weights move no position, so tensors do not count, but which tensor stands where does. Nothing is kept alive, so that
values that are objects are told by their identity.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

from fastsal.engine.prepare import unprepared
from fastsal.engine.run.modules import parts_of
from fastsal.engine.run.own import users_forward

_SIMPLE = frozenset((bool, int, float, str, type(None)))
_PYTORCHS = "torch.nn."
_OTHERWISE = ("training", "forward")
"""Attributes that explanations set, and that are compared otherwise or not at all."""
Place = tuple[int, str]
"""A part, by its id, and an attribute of it."""


class _Part(NamedTuple):
    """A module as it was; of one of PyTorch's own no names and values."""

    module: weakref.ref[nn.Module]
    kind: type
    forward: int
    below: list[int]
    names: list[str]
    values: list[Any]

    def is_same(self) -> bool:
        """Whether it still is: the question of every call, a microsecond or less each."""
        module = self.module()
        if module is None or module.__class__ is not self.kind:
            return False
        held, below = module.__dict__, self.below
        if ("forward" in held or self.forward) and _forward(module) != self.forward:
            return False
        if below and list(map(id, held["_modules"].values())) != below:
            return False
        return not self.names or _values(module) == self.values


class Structure:
    """Modules and their parts as they are now.

    Args:
        modules: what a callable runs; of a prepared one the original counts.
        ignored: attributes that the model writes itself.
    """

    def __init__(self, modules: Iterable[nn.Module], ignored: frozenset[Place] = frozenset()) -> None:
        found: dict[int, nn.Module] = {}
        for module in map(unprepared, modules):
            found.update(parts_of(module))
        self.ignored = ignored
        self._parts = {
            key: _Part(weakref.ref(part), type(part), _forward(part), _below(part), _names(part), _values(part))
            for key, part in found.items()
        }

    def changes(self) -> frozenset[Place]:
        """What is otherwise now; of a part that is another, or gone, its class."""
        differing = [(key, part) for key, part in self._parts.items() if not part.is_same()]
        return frozenset(place for key, part in differing for place in self._of(key, part))

    def _of(self, key: int, part: _Part) -> list[Place]:
        module = part.module()
        if module is None or type(module) is not part.kind:
            return [(key, "__class__")]
        found = []
        if _forward(module) != part.forward:
            found.append((key, "forward"))
        if _below(module) != part.below:
            found.append((key, "_modules"))
        now = dict(zip(_names(module), _values(module), strict=True))
        was = dict(zip(part.names, part.values, strict=True))
        differing = (name for name in {**was, **now} if _differs(now.get(name, was), was.get(name, was)))
        return found + [(key, name) for name in differing if (key, name) not in self.ignored]


def _differs(now: Any, was: Any) -> bool:
    return type(now) is not type(was) or bool(now != was)


def _forward(module: nn.Module) -> int:
    own = users_forward(module) if "forward" in module.__dict__ else None
    return 0 if own is None else id(own)


def _below(module: nn.Module) -> list[int]:
    below = module._modules
    return [id(each) for each in below.values()] if below else []


def _held(module: nn.Module) -> dict[str, Any]:
    """Attributes that tell; none of PyTorch's own modules, which say what their values' shapes do."""
    return {} if type(module).__module__.startswith(_PYTORCHS) else module.__dict__


def _names(module: nn.Module) -> list[str]:
    return [name for name in _held(module) if name not in _OTHERWISE]


def _values(module: nn.Module) -> list[Any]:
    return [
        value if type(value) in _SIMPLE else id(value)
        for name, value in _held(module).items()
        if name not in _OTHERWISE
    ]
