"""What is kept from one call for the next: so many bytes at most, and gone when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from torch import Tensor

Value = TypeVar("Value")

_clears: list[Callable[[], object]] = []


def clear_caches() -> None:
    """Free what fastsal keeps between calls: masks and fits of RISE, rules of quadrature, weights, layers' geometries.

    It is kept so that another call of the same form is faster, and made again where it is needed: results stay the
    same. It is bounded without this too: the masks and fits to 64 MB each, the others to some kB for each model and
    form of input, as long as the model lives. What an explainer or a prepared model keeps goes with it. May be called
    from any thread at any time.

    >>> fastsal.clear_caches()
    """
    for clear in _clears:
        clear()


def on_clearing(clear: Callable[[], object]) -> None:
    """Call a function whenever caches are to be freed."""
    _clears.append(clear)


class Bounded(Generic[Value]):
    """The values for the last keys, up to so many bytes; a value that is larger alone is not kept.

    Args:
        most: bytes.
        tensors: of a value, whose memory it is.
    """

    def __init__(self, most: int, tensors: Callable[[Value], Iterable[Tensor]]) -> None:
        self._most, self._tensors = most, tensors
        self._kept: dict[Hashable, tuple[Value, int]] = {}
        self._lock = threading.Lock()
        on_clearing(self.clear)

    @property
    def bytes(self) -> int:
        """That are kept."""
        with self._lock:
            return sum(size for _, size in self._kept.values())

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value for a key, kept or made; several threads may make it at a time."""
        with self._lock:
            found = self._kept.pop(key, None)
            if found is not None:
                self._kept[key] = found  # as the last that was used
                return found[0]
        value = make()
        size = sum(tensor.numel() * tensor.element_size() for tensor in self._tensors(value))
        with self._lock:
            if size <= self._most:
                self._kept.pop(key, None)
                self._kept[key] = value, size
                self._trim()
        return value

    def _trim(self) -> None:
        total = sum(size for _, size in self._kept.values())
        for key in list(self._kept):
            if total <= self._most:
                return
            total -= self._kept.pop(key)[1]

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept.clear()


class _Kept(Protocol):
    def cache_clear(self) -> None: ...


Function = TypeVar("Function", bound=_Kept)


def freed(function: Function) -> Function:
    """A function of :func:`functools.lru_cache` that forgets on :func:`clear_caches`."""
    on_clearing(function.cache_clear)
    return function
