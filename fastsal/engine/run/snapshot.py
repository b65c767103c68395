"""Whether what was made ready from a model still holds: where every shortcut asks, in the call that uses it."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsal._torch import global_module_hooks
from fastsal.engine.run.fingerprint import Fingerprint
from fastsal.engine.run.graphs import host_may_wait
from fastsal.engine.run.own import users_items
from fastsal.engine.run.places import SIMPLE, Namespace, Places

Scratch = frozenset[tuple[int, str]]
"""Places, by the id of what holds them and their name."""


class Change(NamedTuple):
    """What of a model is no longer as it was.

    Attributes:
        what: for people.
        values: nothing but tensors' values or, under the same name, another tensor of the same form.
        unseen: PyTorch did not count it, so that only the fingerprint told.
    """

    what: str
    values: bool = False
    unseen: bool = False

    def __str__(self) -> str:
        return self.what


class Snapshot:
    """A callable and the modules that it runs, as they are now.

    What is watched: weights and buffers (which ones, where they are, their version and, with ``samples``, a
    fingerprint of their values); parts, classes, hooks and forwards; attributes of any kind, and what containers,
    arrays, objects, closures and functions among them hold; globals that the user's functions name; hooks that all
    modules have, autocast and other settings of PyTorch. It keeps all of that alive.

    What a model's forward itself writes in every pass (:meth:`settle`) is no change.

    Args:
        forward_func: the callable.
        modules: that it runs.
        values: watch tensors' values, not only which ones there are and where.
        samples: watch their fingerprint.
        scratch: places that are not watched.
    """

    def __init__(
        self,
        forward_func: Any,
        modules: Iterable[nn.Module] = (),
        *,
        values: bool = True,
        samples: bool = True,
        scratch: Scratch = frozenset(),
    ) -> None:
        self.scratch = scratch
        self._values = values
        self._places = places = Places(forward_func, list(modules))
        self._tensors = [tensor for _, tensor in places.tensors]
        self._plain = [tensor for tensor in self._tensors if _has_place(tensor)]
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._tensors_now = self._where()
        self._versions = self._written()
        self._arrays = [_digest(array) for _, array in places.arrays]
        self._settings = _settings()
        self._left_out = self._away() if scratch else set[int]()
        # A fingerprint reads memory: these keep it where it is whatever becomes of the model's.
        self._held = [tensor.detach() for tensor in self._plain] if values and samples else []
        self._fingerprint = Fingerprint(self._held)

    def change(self) -> Change | None:
        """What is otherwise now; None where nothing is."""
        found = self._structure()
        if found is not None:
            return found
        if self._where() != self._tensors_now:
            return Change(f"{self._first(self._where(), self._tensors_now, self._plain)} was replaced", values=True)
        if self._values and self._written() != self._versions:
            name = self._first(self._written(), self._versions, self._counted)
            return Change(f"{name} was written to", values=True)
        if self._held and self._may_read() and self._fingerprint.changed():
            return Change("weights were written to through .data, NumPy or another library", values=True, unseen=True)
        return None

    def settle(self) -> None:
        """Take what is otherwise now for the model's own scratch, as after passes of it and nothing else."""
        added = set[tuple[int, str]]()
        for space in self._places.namespaces:
            for name in _differing(space, self.scratch):
                added.add((id(space.live), name))
        added |= {(id(value), "") for value in self._places.empty if value and _filled(value)}
        added |= {(id(container), "") for container, count, _ in self._places.long if len(container) != count}
        added |= {(id(live), "") for live, items, _ in self._places.sequences if not _same_items(live, items)}
        added |= {(id(cell), "") for cell, value in self._places.cells if not _same(_content(cell), value)}
        added |= {
            (id(live), name) for live, name, value in self._places.named if not _same(live.get(name, _GONE), value)
        }
        if added:
            self.scratch |= added
            self._left_out = self._away()
        self._versions = self._written()
        self._arrays = [_digest(array) for _, array in self._places.arrays]

    def _away(self) -> set[int]:
        return {key for key, _ in self.scratch}

    def _structure(self) -> Change | None:
        places, away = self._places, self._left_out
        for space in places.namespaces:
            live, values = space.live, space.values
            if space.training >= 0:
                values[space.training] = live.get("training")
            if len(live) != len(values) or not all(map(is_, live.values(), values)) or list(live) != space.names:
                found = _compared(space, self.scratch)
                if found is not None:
                    return found
        for one, kind in places.kinds:
            if type(one) is not kind:
                return Change(f"a {kind.__name__} is a {type(one).__name__} now")
        if any(places.empty) and any(value and id(value) not in away and _filled(value) for value in places.empty):
            return Change("a container that was empty, such as a module's hooks, is not")
        for container, count, path in places.long:
            if len(container) != count and id(container) not in away:
                return Change(f"{path} changed")
        for live, items, path in places.sequences:
            if not _same_items(live, items) and id(live) not in away:
                return Change(f"{path} changed")
        for cell, value in places.cells:
            now = _content(cell)
            if now is not value and not _same(now, value) and id(cell) not in away:
                return Change("what a function closed over changed")
        for live, name, value in places.named:
            now = live.get(name, _GONE)
            if now is not value and not _same(now, value) and (id(live), name) not in self.scratch:
                return Change(f"{name}, of a class, a module or an object, changed")
        for function, parts in places.functions:
            if not all(map(is_, (function.__code__, function.__defaults__, function.__kwdefaults__), parts)):
                return Change(f"the code of {function.__qualname__} changed")
        for index, (path, array) in enumerate(places.arrays):
            if _digest(array) != self._arrays[index]:
                return Change(f"{path} was written to")
        for attributes, count, names in places.classes:
            if len(attributes) != count and {each for each in attributes if not each.startswith("__")} != names:
                return Change("the names of a class changed")
        if _settings() != self._settings:
            return Change("a setting of PyTorch, such as autocast, or a hook of all modules changed")
        return None

    def _where(self) -> list[Any]:
        return [(t.data_ptr(), t.shape, t.stride()) for t in self._plain]

    def _written(self) -> list[int]:
        return [t._version for t in self._counted] if self._values else []

    def _may_read(self) -> bool:
        return host_may_wait() or all(tensor.device.type == "cpu" for tensor in self._held)

    def _first(self, now: list[Any], was: list[Any], tensors: list[Tensor]) -> str:
        names = {id(tensor): name for name, tensor in self._places.tensors}
        found = next((t for t, a, b in zip(tensors, now, was, strict=True) if a != b), None)
        return names.get(id(found), "a weight")


_GONE = object()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _GONE


def _same(now: Any, was: Any) -> bool:
    """Whether a value may stand for another: itself, or an equal one that nobody can write to."""
    if now is was:
        return True
    if type(now) is not type(was):
        return False
    if isinstance(now, float):
        return repr(now) == repr(was)  # NaN is NaN, and 0.0 is not -0.0
    if isinstance(now, SIMPLE):
        return bool(now == was)
    if isinstance(now, (tuple, frozenset)) and len(now) == len(was):
        return all(map(_same, now, was))
    if isinstance(now, types.MethodType):
        return now.__self__ is was.__self__ and now.__func__ is was.__func__
    return False


def _filled(value: Any) -> bool:
    """Whether there is anything of the user's in a container."""
    return bool(users_items(value)) if isinstance(value, Mapping) else bool(value)


def _same_items(live: Any, items: list[Any]) -> bool:
    return len(live) == len(items) and (all(map(is_, live, items)) or all(map(_same, live, items)))


def _differing(space: Namespace, scratch: Scratch) -> list[str]:
    """Names in a namespace whose value is another, or that are new or gone."""
    live, was = dict(users_items(space.live)), dict(zip(space.names, space.values, strict=True))
    if space.training >= 0:
        was["training"] = live.get("training")
    names = [*was, *(name for name in live if name not in was)]
    return [
        name
        for name in names
        if (id(space.live), name) not in scratch and not _same(live.get(name, _GONE), was.get(name, _GONE))
    ]


def _compared(space: Namespace, scratch: Scratch) -> Change | None:
    differing = _differing(space, scratch)
    live = users_items(space.live)
    if not differing:
        # Only the order may be another, which matters where parts or items are run in turn.
        known = {name for key, name in scratch if key == id(space.live)}
        if [name for name in live if name not in known] == [name for name in space.names if name not in known]:
            return None
        return Change(f"the order of {space.path or 'the model'}'s names changed")
    name = str(differing[0])
    path = f"{space.path}.{name}" if space.path else name
    if space.tensors and all(
        _same_form(live.get(each), space.values[space.names.index(each)] if each in space.names else None)
        for each in differing
    ):
        return Change(f"{path} was replaced", values=True)
    return Change(f"{path} changed")


def _same_form(now: Any, was: Any) -> bool:
    """Whether two tensors differ in their values alone."""
    return (
        isinstance(now, Tensor)
        and isinstance(was, Tensor)
        and type(now) is type(was)
        and (now.shape, now.dtype, now.device, now.stride()) == (was.shape, was.dtype, was.device, was.stride())
    )


def _has_place(tensor: Tensor) -> bool:
    """Whether it has memory of its own that can be pointed to."""
    try:
        return not tensor.is_meta and tensor.layout is torch.strided and tensor.data_ptr() >= 0
    except (RuntimeError, NotImplementedError):
        return False


def _digest(array: Any) -> Any:
    """An array's form and values; of a large one a sample of these."""
    flat = array.reshape(-1) if array.size <= 4096 else array.reshape(-1)[:: array.size // 1024]
    return (array.shape, array.dtype, flat.tobytes() if array.dtype != object else tuple(map(id, flat)))


def _settings() -> tuple[Any, ...]:
    """Of PyTorch, what decides what a model computes."""
    kinds = ("cpu", "cuda") if torch.cuda.is_initialized() else ("cpu",)
    return (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        *((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds),
        global_module_hooks(),
    )
