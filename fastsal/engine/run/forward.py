"""One call of the user's model: in evaluation mode, outside of inference mode, on tensors that it may overwrite."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._torch import tree_map
from fastsal.engine.run.managed import Managed

ForwardFunc = Callable[..., Any]


_LIBRARIES = ("torch", "numpy", "builtins")
"""Whose objects hold no user's module, and whose functions name none."""
_MOST_ITEMS = 10_000


def owners(forward_func: ForwardFunc) -> list[nn.Module]:
    """The modules that a forward function is known to run.

    These are the function itself, and whatever modules it can reach: what it is a method of, what a
    ``functools.partial``, an object's attributes, a list or a dict hold, and what a function and those that it calls
    refer to, in their closures and defaults or by the name of a global.
    """
    found: list[nn.Module] = []
    seen: set[int] = set()
    pending: list[Any] = [forward_func]
    while pending and len(seen) < _MOST_ITEMS:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            found.append(item)
        else:
            pending += _held(item)
    return found


def _held(item: Any) -> list[Any]:
    """What an item of the search leads to."""
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, types.MethodType):
        return [item.__self__, item.__func__]
    if isinstance(item, (list, tuple, set, frozenset, Mapping)):
        if len(item) > _MOST_ITEMS // 10:
            return []  # data, not models
        return list(item.values() if isinstance(item, Mapping) else item)
    if isinstance(item, types.FunctionType):
        return _referred(item)
    if isinstance(item, (type, types.ModuleType, Tensor)) or _of_library(type(item)):
        return []
    return list(getattr(item, "__dict__", {}).values())


def _of_library(item: Any) -> bool:
    return (getattr(item, "__module__", None) or "builtins").split(".")[0] in _LIBRARIES


def _referred(function: types.FunctionType) -> list[Any]:
    """Values that a function's code can name."""
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell that is still empty
            values.append(cell.cell_contents)
    codes = [] if _of_library(function) else [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        values += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    return values


def owner(forward_func: ForwardFunc) -> nn.Module | None:
    """The one module behind a forward function, without the wrapper of ``torch.compile``; None where it is not one.

    Of a prepared model it is the replica that runs.
    """
    found = owners(forward_func)
    if len(found) != 1:
        return None
    if isinstance(found[0], Managed):
        return found[0].module
    original = getattr(found[0], "_orig_mod", None)
    return original if isinstance(original, nn.Module) else found[0]


@contextlib.contextmanager
def evaluation(forward_func: ForwardFunc, *, eager: bool = False) -> Iterator[None]:
    """The model in evaluation mode and inference mode left; every module's own flag is back afterwards.

    A prepared model takes over what has changed in the user's.

    An explanation is one of the prediction: dropout would make it random, and batch normalisation in train mode would
    let a batch of altered inputs change the user's running statistics. ``eager`` runs what ``torch.compile`` made as
    plain PyTorch, since compiled code was traced without the hooks and modes that a tap needs.
    """
    found = owners(forward_func)
    with contextlib.ExitStack() as sessions:
        for module in found:
            if isinstance(module, Managed):
                sessions.enter_context(module.session(whole=eager))
        with _evaluation(found, eager):
            yield


@contextlib.contextmanager
def _evaluation(modules: list[nn.Module], eager: bool) -> Iterator[None]:
    # A frozen ScriptModule has no flag.
    training = [part for part in _parts(modules) if getattr(part, "training", False)]
    stance: Any = contextlib.nullcontext()
    if eager and "torch._dynamo" in sys.modules:  # nothing can have been compiled without it
        stance = torch.compiler.set_stance("force_eager")
    for part in training:
        part.training = False
    try:
        with torch.inference_mode(False), stance:
            yield
    finally:
        for part in training:
            part.training = True


def _parts(modules: list[nn.Module]) -> list[nn.Module]:
    """All parts of the modules, without the names that ``Module.modules`` makes on its way."""
    found: dict[nn.Module, None] = {}
    pending: list[nn.Module] = list(modules)
    while pending:
        part = pending.pop()
        if part not in found:
            found[part] = None
            # A ScriptModule's parts are not in a dict.
            below = part._modules
            pending += [child for child in below.values() if child is not None] if below else ()
    return list(found)


def scratch(value: Any) -> Any:
    """A copy that a model may write to and autograd may save; anything but a tensor as it is."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def detached(output: Any) -> Any:
    """An output, in whatever its tensors are nested, without its graph."""
    if isinstance(output, Tensor):
        return output.detach()
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)


def _accepts_arguments(forward_func: ForwardFunc) -> bool:
    if isinstance(forward_func, nn.Module):
        return True
    try:
        return len(inspect.signature(forward_func).parameters) > 0
    except (TypeError, ValueError):
        return True


def _mismatch(module: nn.Module, inputs: tuple[Any, ...], error: RuntimeError) -> str | None:
    """What differs between the inputs and the model's parameters, if anything does."""
    if "Inference tensors cannot be saved" in str(error):
        return "the model was made inside torch.inference_mode(), so no gradient can pass it: make it outside"
    first = next((tensor for tensor in inputs if isinstance(tensor, Tensor) and tensor.is_floating_point()), None)
    weight = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), None)
    if first is None or weight is None:
        return None
    if first.device != weight.device or first.dtype != weight.dtype:
        return (
            f"inputs: {first.dtype} on {first.device}, but the model's parameters are {weight.dtype} on "
            f"{weight.device}; pass inputs.to({str(weight.device)!r}, {weight.dtype})"
        )
    return None


def run(forward_func: ForwardFunc, inputs: tuple[Any, ...], additional: tuple[Any, ...] = ()) -> Any:
    """``forward_func(*inputs, *additional)``; a function without parameters is called without.

    Raises:
        ValueError: where the call fails and inputs and model differ in dtype or device, naming both.
    """
    if not _accepts_arguments(forward_func):
        return forward_func()
    try:
        return forward_func(*inputs, *additional)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        module = owner(forward_func)
        reason = None if module is None else _mismatch(module, inputs, error)
        if reason is None:
            raise
        raise ValueError(reason) from error
