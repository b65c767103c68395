"""The form of a call: all of its arguments that a replica's course may depend on."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Form = tuple[Any, ...]
DEEPEST = 6
"""Containers and objects inside of each other that are looked into."""
_PLAIN = (bool, int, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout, type)


class Unlike:
    """The form of a value that cannot be told: it equals no other."""

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)


def form_of(args: tuple[Any, ...]) -> Form:
    """What a trace depends on beside the tensors' values: number, kinds and, but of tensors, values of arguments."""
    return tuple([_tensor(value) if type(value) is Tensor else _form(value, DEEPEST) for value in args])


def _tensor(value: Tensor) -> Form:
    return value.dtype, value.dim()


def _form(value: Any, depth: int) -> Any:
    kind = type(value)
    if isinstance(value, Tensor):
        return kind, value.dtype, value.dim()
    if isinstance(value, enum.Enum):
        return kind, value.name
    if isinstance(value, float):
        return kind, repr(value)  # NaN is NaN, and 0.0 is not -0.0
    if isinstance(value, _PLAIN):
        return kind, value
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.hasobject:
            return Unlike()
        return kind, value.shape, value.dtype, value.tobytes()
    if isinstance(value, (types.BuiltinFunctionType, types.ModuleType)):
        return kind, id(value)
    if not depth:
        return Unlike()
    if isinstance(value, Mapping):
        return kind, tuple([(_form(name, depth - 1), _form(each, depth - 1)) for name, each in value.items()])
    if isinstance(value, (list, tuple)):
        return kind, tuple([_form(each, depth - 1) for each in value])
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(_form(each, depth - 1) for each in value)
    attributes = getattr(value, "__dict__", None)
    slots = any("__slots__" in vars(each) for each in kind.__mro__[:-1])
    if isinstance(attributes, dict) and not callable(value) and not slots:
        return kind, _form(attributes, depth - 1)
    return Unlike()
