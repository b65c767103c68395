"""Where all stands that decides what a callable computes: in its modules, their classes and the functions it names."""

from __future__ import annotations

import enum
import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastsal.engine.run.managed import Managed
from fastsal.engine.run.own import users_items

SIMPLE = (bool, int, float, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.device, torch.Size, type)
"""Kinds of values that are compared themselves."""
DEEPEST = 3
"""Objects inside of objects that are looked into; of a model's own parts there is no such bound."""
LONGEST = 4096
"""Entries of a container that are looked at; of a longer one, such as a vocabulary, only their number."""
MOST = 30000
"""Places that are looked at. What is beyond them is for whoever compares outputs."""
_OTHERS = ("torch", "torchvision", "timm", "transformers", "numpy", "builtins", "collections", "functools")
"""Packages whose functions are not looked into: what they name is a program's to patch, not its setting."""
_CALLS = ("__call__", "__getattr__", "__getattribute__")


class Namespace(NamedTuple):
    """Names and what stood under each.

    Attributes:
        live: the mapping itself.
        names, values: as they were, in order.
        training: where a module's flag is among them, which an explanation sets and puts back; else -1.
        tensors: whether it is a module's parameters or buffers.
        path: for people.
    """

    live: Mapping[str, Any]
    names: list[str]
    values: list[Any]
    training: int
    tensors: bool
    path: str


class Places:
    """What is found of a callable and the modules that it runs, by reference; the walk itself changes nothing.

    Attributes:
        kinds: (module or object, its class).
        namespaces: attributes of modules, objects and classes, parameters, buffers, parts, hooks, dicts.
        sequences: (list, its items).
        long: (container of more than :data:`LONGEST` entries, their number).
        empty: containers without anything in them.
        cells: (cell of a closure, its value).
        named: (mapping, name, value) of single names: globals that a function reads, a function's code and defaults.
        functions: (function, its code and defaults).
        classes: (names of a class, how many there are, which of them count).
        tensors: (path, tensor).
        arrays: (path, array).
    """

    def __init__(self, forward_func: Any, modules: Iterable[nn.Module]) -> None:
        self.kinds: list[tuple[Any, type]] = []
        self.namespaces: list[Namespace] = []
        self.sequences: list[tuple[Any, list[Any], str]] = []
        self.long: list[tuple[Any, int, str]] = []
        self.empty: list[Any] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self.named: list[tuple[Mapping[str, Any], str, Any]] = []
        self.functions: list[tuple[Any, tuple[Any, ...]]] = []
        self.classes: list[tuple[Mapping[str, Any], int, set[str]]] = []
        self.tensors: list[tuple[str, Tensor]] = []
        self.arrays: list[tuple[str, Any]] = []
        self._seen: dict[int, Any] = {}
        self._pending: deque[tuple[Any, str, int]] = deque()
        for module in modules:
            self._pending.append((module, "", 0))
        if not isinstance(forward_func, nn.Module):
            self._pending.append((forward_func, "forward_func", 0))
        left = MOST
        while self._pending and left > 0:
            left -= 1
            self._visit(*self._pending.popleft())
        del self._pending, self._seen

    def _visit(self, value: Any, path: str, depth: int) -> None:
        if isinstance(value, (*SIMPLE, types.ModuleType)) or id(value) in self._seen or depth > DEEPEST:
            return
        self._seen[id(value)] = value  # an id is one thing's as long as it lives
        if isinstance(value, Tensor):
            self.tensors.append((path, value))
        elif isinstance(value, np.ndarray):
            self.arrays.append((path, value))
        elif isinstance(value, nn.Module):
            self._module(value.module if isinstance(value, Managed) else value, path)
        elif isinstance(value, (dict, list, tuple, set, frozenset, deque)) and len(value) > LONGEST:
            self.long.append((value, len(value), path))
        elif isinstance(value, dict):
            self._mapping(value, path, depth + 1)
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            self._sequence(value, path, depth + 1)
        elif isinstance(value, types.MethodType):
            self._later(value.__func__, path, depth)
            self._later(value.__self__, path, depth)
        elif isinstance(value, functools.partial):
            for part, name in ((value.func, "func"), (value.args, "args"), (value.keywords, "keywords")):
                self._later(part, f"{path}.{name}", depth)
        elif isinstance(value, (staticmethod, classmethod)):
            self._later(value.__func__, path, depth)
        elif isinstance(value, property):
            self._later(value.fget, path, depth)
        elif isinstance(value, types.FunctionType):
            self._function(value, path, depth)
        else:
            self._object(value, path, depth + 1)

    def _later(self, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, SIMPLE):
            self._pending.append((value, path, depth))

    def _module(self, module: nn.Module, path: str) -> None:
        self.kinds.append((module, type(module)))
        for kind in type(module).__mro__[:-1]:
            self._class(kind)
        below = f"{path}." if path else ""
        if isinstance(module, torch.jit.ScriptModule):  # whose parts cannot be replaced, and dicts are made anew
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                self._later(tensor, below + name, 0)
            return
        self._namespace(vars(module), path)
        for name, value in users_items(vars(module)).items():
            if name in ("_parameters", "_buffers", "_modules"):
                if value:
                    self._namespace(value, path, tensors=name != "_modules")
                    for inner, each in value.items():
                        self._later(each, below + inner, 0)
                else:
                    self.empty.append(value)
            elif value is None or value is True or value is False:
                continue
            else:
                self._later(value, below + name, 0)
        self._slots(module, path, 0)

    def _class(self, kind: type) -> None:
        if id(kind) in self._seen:
            return
        self._seen[id(kind)] = kind
        own = kind.__module__.partition(".")[0] not in _OTHERS
        # What a class documents of itself may be made at the first question.
        names = [name for name in vars(kind) if not name.startswith("__") or name in _CALLS]
        if own:
            self.classes.append((vars(kind), len(vars(kind)), {name for name in names if name not in _CALLS}))
        for name in names:
            value = vars(kind)[name]
            self.named.append((vars(kind), name, value))
            if own:
                self._later(value, f"{kind.__name__}.{name}", 0)

    def _namespace(self, live: Mapping[str, Any], path: str, tensors: bool = False) -> None:
        given = users_items(live)
        names = list(given)
        training = -1
        if isinstance(live.get("_modules"), dict) and "training" in live:
            training = names.index("training")
        self.namespaces.append(Namespace(live, names, list(given.values()), training, tensors, path))

    def _mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> None:
        given = users_items(value)
        if not given:
            self.empty.append(value)
            return
        self._namespace(value, path)
        for name, each in given.items():
            self._later(each, f"{path}.{name}", depth)

    def _sequence(self, value: Any, path: str, depth: int) -> None:
        if not value:
            self.empty.append(value)
            return
        items = list(value)
        if not isinstance(value, (tuple, frozenset)):
            self.sequences.append((value, items, path))
        for index, each in enumerate(items):
            self._later(each, f"{path}[{index}]", depth)

    def _object(self, value: Any, path: str, depth: int) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and not isinstance(value, type):
            self.kinds.append((value, type(value)))
            if attributes:
                self._namespace(attributes, path)
                for name, each in attributes.items():
                    self._later(each, f"{path}.{name}", depth)
            else:
                self.empty.append(attributes)
            if callable(value):
                self._class(type(value))
        self._slots(value, path, depth)

    def _slots(self, value: Any, path: str, depth: int) -> None:
        for kind in type(value).__mro__:
            names = vars(kind).get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                if name not in ("__dict__", "__weakref__"):
                    live = _Slot(value)
                    self.named.append((live, name, live.get(name)))
                    self._later(live.get(name), f"{path}.{name}", depth)

    def _function(self, function: types.FunctionType, path: str, depth: int) -> None:
        """What it closed over, its defaults, and the globals that it names."""
        code, defaults = function.__code__, (function.__defaults__, function.__kwdefaults__)
        self.functions.append((function, (code, *defaults)))
        for default in defaults:
            self._later(default, path, depth)
        for cell in function.__closure__ or ():
            try:
                self.cells.append((cell, cell.cell_contents))
                self._later(cell.cell_contents, path, depth)
            except ValueError:  # not bound yet
                continue
        if function.__module__ and function.__module__.partition(".")[0] in _OTHERS:
            return
        space = function.__globals__
        names = set(_names(code))
        for name in names & space.keys():
            value = space[name]
            self.named.append((space, name, value))
            if isinstance(value, types.ModuleType):
                held = vars(value)
                self.named += [(held, each, held[each]) for each in names & held.keys()]
            else:
                self._later(value, f"{path}: {name}", depth + 1)
        if function.__dict__:
            self._mapping(function.__dict__, path, depth + 1)


class _Slot(Mapping[str, Any]):
    """An object's slots as a mapping."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self._of, name)
        except AttributeError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function's code and that of functions inside of it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
