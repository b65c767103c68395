"""Training flags that one thread sees otherwise than the others: an explanation's evaluation mode is its thread's.

A module's ``training`` is an attribute of the object, which all threads share. While anyone explains what is in
training mode, ``nn.Module`` has a descriptor in its place, which answers that thread with the flags of its own and
every other with the object's. It is gone with the last such explanation.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fastsal.engine.run.own import Owner, Undone, is_owner


class _Training:
    """``nn.Module.training`` while threads have flags of their own."""

    def __get__(self, module: Any, _class: Any = None) -> Any:
        if module is None:
            raise AttributeError("training")
        if not torch.compiler.is_compiling():
            for one in _owners:
                if id(module) in one.flags and is_owner(one):
                    return one.flags[id(module)]
        try:
            return module.__dict__["training"]
        except KeyError:
            raise AttributeError("training") from None

    def __set__(self, module: Any, value: Any) -> None:
        if not torch.compiler.is_compiling():
            for one in _owners:
                if id(module) in one.flags and is_owner(one):
                    one.flags[id(module)] = value
                    return
        module.__dict__["training"] = value

    def __delete__(self, module: Any) -> None:
        del module.__dict__["training"]


_lock = threading.RLock()
_owners: tuple[Owner, ...] = ()
"""That have flags of their own; replaced, never changed, so that a reader needs no lock."""
_descriptor: Any = _Training()
_switched: dict[int, set[object]] = {}
"""Of parts that are in evaluation mode for all threads, by id, the explanations that keep them there."""


def evaluate(parts: Iterable[nn.Module], undone: Undone, shared: Callable[[], bool]) -> bool:
    """Parts that are in training mode are in evaluation mode for this thread until the end of a context.

    Args:
        parts: of which those in evaluation mode stay as they are.
        undone: the context.
        shared: asked where any is in training mode: whether to switch them for all threads, since code runs that reads
            the flag past Python's attributes.

    Returns:
        Whether any was in training mode.
    """
    # A frozen ScriptModule has no flag.
    found = [part for part in parts if getattr(part, "training", False) or (_switched and id(part) in _switched)]
    if not found:
        return False
    training, for_all, own = any(part.training for part in found), shared(), []
    for part in found:
        kind: Any = type(part)
        if for_all or id(part) in _switched or not _is_attribute(kind):
            _switch(part, undone)
        else:
            own.append(id(part))
    if own:
        one = undone.owner
        undone.at_end(lambda: _take(one, own))
        with _lock:
            one.flags.update(dict.fromkeys(own, False))
            _install(one)
    return training


@functools.lru_cache(maxsize=1024)
def _is_attribute(kind: type) -> bool:
    """Whether the flag of modules of a class is the attribute that PyTorch makes, not the class's own or C++'s."""
    if issubclass(kind, torch.jit.ScriptModule):
        return False
    return not any("training" in vars(each) for each in kind.__mro__ if each is not nn.Module)


def _switch(part: nn.Module, undone: Undone) -> None:
    key = object()

    def back() -> None:
        with _lock:
            holders = _switched.get(id(part))
            if holders is not None and key in holders:
                if len(holders) == 1:
                    part.training = True
                    del _switched[id(part)]
                else:
                    holders.discard(key)

    undone.at_end(back)
    with _lock:
        _switched.setdefault(id(part), set()).add(key)
        part.training = False


def _take(one: Owner, keys: Iterable[int]) -> None:
    with _lock:
        for key in keys:
            one.flags.pop(key, None)
        if not one.flags:
            _uninstall(one)


def _install(one: Owner) -> None:
    global _owners
    if one not in _owners:
        _owners = (*_owners, one)
    if "training" not in nn.Module.__dict__:
        nn.Module.training = _descriptor


def _uninstall(one: Owner) -> None:
    global _owners
    _owners = tuple(other for other in _owners if other is not one)
    if not _owners and nn.Module.__dict__.get("training") is _descriptor:
        del nn.Module.training


def nothing_held() -> bool:
    """Whether no thread has a flag of its own, and none is switched."""
    return not _owners and not _switched and "training" not in nn.Module.__dict__
