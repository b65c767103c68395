"""What a model computes by beside its weights: its parts, their hooks and forwards, flags and settings."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run.modules import ForwardFunc, parts_of
from fastsal.engine.run.own import items_of, users_attributes

State = dict[tuple[int, str], Any]
"""By part and name."""
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.device, torch.Size, type)
_MOST = 16
"""Entries of a list that are looked at."""


def model_state(forward_func: ForwardFunc, modules: Iterable[nn.Module]) -> State:
    """Everything of a callable and the modules that it runs that is compared at little cost.

    Weights are told by their shapes alone. Of settings that are objects the plain attributes count, of functions what
    they closed over and the globals that they name.
    """
    state: State = {}
    seen: set[int] = set()
    for module in modules:
        _add_module(state, seen, module)
    if not isinstance(forward_func, nn.Module):
        _add_callable(state, seen, forward_func)
    return state


def _add_module(state: State, seen: set[int], module: nn.Module) -> None:
    if id(module) in seen:
        return
    for key, part in parts_of(module).items():
        if key not in seen:
            seen.add(key)
            _add_part(state, seen, key, part)


def _add_part(state: State, seen: set[int], key: int, part: nn.Module) -> None:
    state[key, "type"] = type(part)
    if isinstance(part, torch.jit.ScriptModule):
        state[key, "training"] = getattr(part, "training", None)
        return
    for name, value in users_attributes(part).items():
        if name == "training":
            state[key, name] = part.training  # as this thread sees it
        elif name in ("_parameters", "_buffers"):
            state[key, name] = tuple((each, None if t is None else (t.shape, t.dtype)) for each, t in value.items())
        elif name == "_modules":
            state[key, name] = tuple((each, id(child)) for each, child in value.items())
        elif name.endswith("_hooks"):
            state[key, name] = tuple(map(id, value.values())) if isinstance(value, Mapping) else id(value)
        else:
            _add(state, seen, (key, name), value)


def _add_callable(state: State, seen: set[int], function: Any) -> None:
    key = id(function)
    if key in seen:
        return
    seen.add(key)
    if isinstance(function, types.MethodType):
        _add_callable(state, seen, function.__self__)
        return
    code, globals_ = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    for name in getattr(code, "co_names", ()):
        value = globals_.get(name)
        if isinstance(value, nn.Module) or (value is not None and _plain(value) is not _NOT_PLAIN):
            _add(state, seen, (key, name), value)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=False):
        try:
            _add(state, seen, (key, name), cell.cell_contents)
        except ValueError:  # not bound yet
            continue
    for name, value in getattr(function, "__dict__", {}).items():
        _add(state, seen, (key, name), value)


def _add(state: State, seen: set[int], place: tuple[int, str], value: Any) -> None:
    plain = _plain(value)
    if plain is not _NOT_PLAIN:
        state[place] = plain
        return
    state[place] = id(value)
    for each in value[:_MOST] if isinstance(value, (list, tuple)) else (value,):
        if isinstance(each, nn.Module):
            _add_module(state, seen, each)
    if isinstance(value, (nn.Module, Tensor, types.ModuleType)) or id(value) in seen or callable(value):
        return
    seen.add(id(value))
    held = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    for name, each in items_of(held):  # such as marks of hooks, which other threads set
        inner = _plain(each)
        if inner is not _NOT_PLAIN:
            state[id(value), str(name)] = inner


_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """A value that is compared itself."""
    if isinstance(value, _SIMPLE):
        return value
    if isinstance(value, (tuple, list)):
        first = tuple(value[:_MOST])
        return (len(value), *first) if all(isinstance(each, _SIMPLE) for each in first) else _NOT_PLAIN
    return _NOT_PLAIN
