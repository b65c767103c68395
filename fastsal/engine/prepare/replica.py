"""A model's structure again, over other tensors: what is changed in it is not changed in the user's."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.engine.run.own import users_attributes

Convert = Callable[[Tensor], Tensor]


class NotReplicable(ValueError):
    """A module that cannot be taken apart."""


def replica(
    model: nn.Module, convert: Convert | None = None, into: dict[nn.Module, nn.Module] | None = None
) -> tuple[nn.Module, dict[nn.Module, nn.Module]]:
    """(copy, the copy of each module): in evaluation mode, its parameters without gradients.

    Modules are copied, as are the lists and dicts in which they keep modules and tensors; everything else is shared.
    Tensors share memory with the model's unless ``convert`` returns others.

    Args:
        model: module.
        convert: of each parameter and buffer, detached.
        into: earlier copies of the same parts, to be written over, so that whoever holds one holds the new one.

    Raises:
        NotReplicable: for TorchScript, and for parameters that are not initialised.
    """
    modules: dict[nn.Module, nn.Module] = {}
    tensors: dict[int, Tensor] = {}
    for part in model.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise NotReplicable("it is TorchScript, whose modules cannot be copied without its code")
        earlier = (into or {}).get(part)
        modules[part] = earlier if earlier is not None and type(earlier) is type(part) else part.__new__(type(part))
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)):
                raise NotReplicable(f"{type(part).__name__} has parameters that are not initialised: call it once")
            if tensor is not None and id(tensor) not in tensors:
                tensors[id(tensor)] = _converted(tensor, convert)
    for part, copy in modules.items():
        values = {name: _mapped(value, modules, tensors) for name, value in users_attributes(part).items()}
        copy.__dict__.clear()
        copy.__dict__.update(values)
        copy.__dict__["training"] = False
    return modules[model], modules


def _converted(tensor: Tensor, convert: Convert | None) -> Tensor:
    plain = tensor.detach()
    if convert is not None and type(plain) in (Tensor, nn.Parameter):
        plain = convert(plain)
    return nn.Parameter(plain, requires_grad=False) if isinstance(tensor, nn.Parameter) else plain


def _mapped(value: Any, modules: dict[nn.Module, nn.Module], tensors: dict[int, Tensor]) -> Any:
    """An attribute of a module for the module's copy."""
    if isinstance(value, nn.Module):
        return modules.get(value, value)
    if isinstance(value, Tensor):
        return tensors.get(id(value), value)
    if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
        return types.MethodType(value.__func__, modules.get(value.__self__, value.__self__))
    if type(value) in (list, tuple, set):
        return type(value)(_mapped(each, modules, tensors) for each in value)
    if isinstance(value, dict):
        copy = value.copy()
        for name, each in value.items():
            copy[name] = _mapped(each, modules, tensors)
        return copy
    return value
