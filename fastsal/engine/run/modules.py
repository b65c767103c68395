"""The modules behind a callable: known where it is or holds one by itself, else found by running it once.

What was found is remembered as long as callable and modules live, and keeps neither alive.
"""

from __future__ import annotations

import functools
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from fastsal.engine.run.managed import Managed

ForwardFunc = Callable[..., Any]
Value = TypeVar("Value")

_MOST_WRAPPERS = 16
"""Around a function: some objects claim to have any attribute."""


class Behind(NamedTuple):
    """What a callable runs.

    Attributes:
        outermost: modules that no other one of them runs.
        hidden: modules that these run although they are not registered as their parts.
        compiled: whether there is code of ``torch.compile`` that cannot be seen before it runs.
    """

    outermost: Sequence[nn.Module] = ()
    hidden: Sequence[nn.Module] = ()
    compiled: bool = False


class _Kept(NamedTuple):
    """A :class:`Behind` that keeps no module alive."""

    outermost: tuple[weakref.ref[nn.Module], ...]
    hidden: tuple[weakref.ref[nn.Module], ...]
    compiled: bool

    def alive(self) -> Behind | None:
        """As it was, unless a module is gone."""
        outermost, hidden = ([each() for each in kept] for kept in (self.outermost, self.hidden))
        if any(module is None for module in (*outermost, *hidden)):
            return None
        return Behind(outermost, hidden, self.compiled)  # type: ignore[arg-type]


class _Meanwhile(threading.local):
    """Of callables that cannot be referred to weakly, while they are explained."""

    def __init__(self) -> None:
        self.kept: list[tuple[ForwardFunc, _Kept]] = []


class WhileAlive(Generic[Value]):
    """Values for objects as long as these live, by identity: some say that they equal others, or have no hash."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[Any], Value]] = {}

    def get(self, key: Any) -> Value | None:
        """The value of an object; None where there is none."""
        found = self._kept.get(id(key))
        return found[1] if found is not None and found[0]() is key else None

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()

    def drop(self, key: Any) -> None:
        """Keep none for an object."""
        if self.get(key) is not None:
            self._kept.pop(id(key), None)

    def set(self, key: Any, value: Value) -> None:
        """Keep a value for an object.

        Raises:
            TypeError: for an object that cannot be referred to weakly.
        """
        place, kept = id(key), self._kept

        def remove(reference: weakref.ref[Any]) -> None:
            found = kept.get(place)
            if found is not None and found[0] is reference:
                kept.pop(place, None)

        kept[place] = weakref.ref(key, remove), value


_remembered: WhileAlive[_Kept] = WhileAlive()
"""By callable."""
_methods: WhileAlive[WhileAlive[_Kept]] = WhileAlive()
"""By what a bound method is of, then by its function."""
_meanwhile = _Meanwhile()
_closed: WhileAlive[tuple[int, int]] = WhileAlive()
"""Of modules that run none but their parts, the state in which that was seen."""


def modules_of(forward_func: ForwardFunc) -> list[nn.Module]:
    """The modules that a callable runs, as far as they are known: by its last run, or because it calls one directly.

    Parts of a module are not listed beside it, unless it runs them without having registered them.
    """
    found = behind(forward_func)
    return [] if found is None else [*found.outermost, *found.hidden]


def module_of(forward_func: ForwardFunc) -> nn.Module | None:
    """The one module behind a callable, without the wrapper of ``torch.compile``; None where it is not known to be one.

    Of a prepared model it is the replica that runs.
    """
    found = behind(forward_func)
    if found is None or len(found.outermost) != 1:
        return None
    return unwrapped(found.outermost[0])


def unwrapped(module: nn.Module) -> nn.Module:
    """What runs in place of a prepared or compiled model; any other as it is."""
    if isinstance(module, Managed):
        return module.module
    original = getattr(module, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else module


def behind(forward_func: ForwardFunc) -> Behind | None:
    """What a callable is known to run; None where that takes running it."""
    called: ForwardFunc | None = forward_func
    for _ in range(_MOST_WRAPPERS):
        if called is None:
            break
        found = recalled(called)
        if isinstance(called, nn.Module):
            return Behind((called,), () if found is None else found.hidden)
        if found is not None:
            return found
        called = _called(called)
    return None


def _called(forward_func: ForwardFunc) -> ForwardFunc | None:
    """What a callable says itself that it calls: as a method, a ``partial``, or a wrapper of a function."""
    if isinstance(forward_func, types.MethodType):
        return forward_func.__self__ if isinstance(forward_func.__self__, nn.Module) else None
    if isinstance(forward_func, functools.partial):
        return forward_func.func
    for name in ("__wrapped__", "_torchdynamo_orig_callable"):
        inner = getattr(forward_func, name, None)
        if callable(inner):
            return inner  # type: ignore[no-any-return]
    return None


def calling(forward_func: ForwardFunc) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Says of a function of ours that it calls the user's, as :func:`functools.wraps` does."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__wrapped__ = forward_func  # type: ignore[attr-defined]
        return function

    return mark


def same(one: ForwardFunc, other: ForwardFunc) -> bool:
    """Whether two callables are one, or methods of one object: those are made anew each time."""
    if isinstance(one, types.MethodType) and isinstance(other, types.MethodType):
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    return one is other


def recalled(forward_func: ForwardFunc) -> Behind | None:
    """What a callable ran when it last ran to its end."""
    if isinstance(forward_func, types.MethodType):
        functions = _methods.get(forward_func.__self__)
        kept = None if functions is None else functions.get(forward_func.__func__)
    else:
        kept = _remembered.get(forward_func)
    if kept is None and _meanwhile.kept:
        kept = next((kept for other, kept in _meanwhile.kept if same(other, forward_func)), None)
    return None if kept is None else kept.alive()


def remember(forward_func: ForwardFunc, found: Behind) -> None:
    """Keep what a callable ran for :func:`recalled`; until :func:`forget` where it cannot be referred to weakly."""
    kept = _Kept(tuple(map(weakref.ref, found.outermost)), tuple(map(weakref.ref, found.hidden)), found.compiled)
    try:
        if not isinstance(forward_func, types.MethodType):
            _remembered.set(forward_func, kept)
            return
        functions = _methods.get(forward_func.__self__)
        if functions is None:
            functions = WhileAlive()
            _methods.set(forward_func.__self__, functions)
        functions.set(forward_func.__func__, kept)
    except TypeError:
        _meanwhile.kept.insert(0, (forward_func, kept))


def forget(forward_func: ForwardFunc, others: Iterable[ForwardFunc] = ()) -> None:
    """The end of an explanation, for what was remembered meanwhile only; not where it is among the others."""
    if _meanwhile.kept and not any(same(other, forward_func) for other in others):
        _meanwhile.kept = [each for each in _meanwhile.kept if not same(each[0], forward_func)]


def parts_of(module: nn.Module) -> dict[int, nn.Module]:
    """A module and all its parts by id, without the names that ``Module.modules`` makes on its way."""
    found: dict[int, nn.Module] = {}
    pending = [module]
    while pending:
        part = pending.pop()
        if id(part) not in found:
            found[id(part)] = part
            # A ScriptModule's parts are not in a dict.
            below = part._modules
            if below:
                pending += [child for child in below.values() if child is not None]
    return found


def outermost_of(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Without those that are parts of others."""
    given = list(modules)
    if len(given) < 2:
        return given
    inner = {part for module in given for part in parts_of(module) if part != id(module)}
    return [module for module in given if id(module) not in inner]


def close(module: nn.Module) -> bool:
    """Note that a module ran none but its parts; False where it holds others, which it may run another time."""
    parts = parts_of(module)
    if any(_holds_others(part, parts) for part in parts.values()):
        return False
    _closed.set(module, _state(parts))
    return True


def _holds_others(part: nn.Module, parts: Mapping[int, nn.Module]) -> bool:
    """Whether an attribute is a module that is none of the parts, or a container of such."""
    for value in vars(part).values():
        if isinstance(value, (list, tuple, set, deque, dict)):
            held: Iterable[Any] = value.values() if isinstance(value, dict) else value
        else:
            held = (value,)
        if any(isinstance(each, nn.Module) and id(each) not in parts for each in held):
            return True
    return False


def is_closed(module: nn.Module, parts: Mapping[int, nn.Module]) -> bool:
    """Whether a module is known to run none but its parts, which have been the same since."""
    # What runs inside of TorchScript is no module of Python's.
    if isinstance(module, torch.jit.ScriptModule):
        return True
    seen = _closed.get(module)
    return seen is not None and seen == _state(parts)


def _state(parts: Mapping[int, nn.Module]) -> tuple[int, int]:
    """Which parts there are, and how many attributes they have: a module that is kept elsewhere is in a new one."""
    return hash(tuple(parts)), sum(map(len, map(vars, parts.values())))


def is_compiled(parts: Iterable[nn.Module]) -> bool:
    """Whether a part is wrapped by ``torch.compile``, in any of its ways."""
    return "torch._dynamo" in sys.modules and any(
        "_orig_mod" in part.__dict__.get("_modules", ())
        or part._compiled_call_impl is not None
        or hasattr(getattr(part, "forward", None), "_torchdynamo_orig_callable")
        for part in parts
    )


@functools.lru_cache(maxsize=1024)
def has_compiled_methods(kind: type) -> bool:
    """Whether ``torch.compile`` made a method of a class of modules."""
    return any(hasattr(each, "_torchdynamo_orig_callable") for base in kind.__mro__ for each in vars(base).values())


def hookable(forward_func: ForwardFunc) -> bool:
    """Whether hooks on the modules behind a callable see all that runs: nothing is compiled or on several devices."""
    return all(
        module.hookable
        if isinstance(module, Managed)
        else not (isinstance(module, torch.jit.ScriptModule) or is_compiled(parts_of(module).values()))
        for module in modules_of(forward_func)
    )
