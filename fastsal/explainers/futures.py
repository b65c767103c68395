"""Forward functions that return futures, as of a remote model: all calls are issued before the first is waited for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsal.explainers.base import Attribution
from fastsal.explainers.seeds import as_seed

Forward = Callable[..., Any]


class Awaiting(Attribution):
    """Adds :meth:`attribute_future` to an explainer whose model calls do not depend on each other's answers."""

    def attribute_future(self, *args: Any, **kwargs: Any) -> torch.jit.Future[Any]:
        """A future of what ``attribute`` returns, for a forward_func that returns a ``torch.futures.Future``.

        Arguments as of ``attribute``. All calls of the model are issued, so that they may be answered at once and in
        any order; their altered inputs are held together then. The returned future is complete.

        Raises:
            TypeError: for a forward_func that returns anything but a future.
            TypeError, ValueError: as of ``attribute``.
        """
        if "seed" in inspect.signature(type(self).attribute).parameters:  # type: ignore[attr-defined]
            kwargs = {**kwargs, "seed": as_seed(kwargs.get("seed"))}
        calls = _Calls(self.forward_func)
        for forward in (calls.issue, calls.collect):
            one = copy.copy(self)
            one.forward_func = forward()
            result = one.attribute(*args, **kwargs)  # type: ignore[attr-defined]
        done: torch.futures.Future[Any] = torch.futures.Future()
        done.set_result(result)
        return done.then(lambda each: each.value())  # the type that Captum's has


class _Calls:
    """The calls of one attribution: made in a first run, which goes on with answers of the right form, and waited for
    in a second one."""

    def __init__(self, forward_func: Forward) -> None:
        self._forward_func = forward_func
        self._futures: list[tuple[tuple[Any, ...], Any]] = []

    def issue(self) -> Forward:
        """A function that calls the model and answers like its first answer, which is waited for, in form alone."""
        first: list[tuple[int, Any]] = []

        def forward(*args: Any) -> Any:
            future = self._forward_func(*args) if args else self._forward_func()
            if not isinstance(future, torch.jit.Future):
                raise TypeError(
                    f"forward_func: it returned a {type(future).__name__}, not a torch.futures.Future; use attribute"
                )
            self._futures.append((args, future))
            rows = next((len(value) for value in args if isinstance(value, Tensor) and value.dim()), 1)
            if not first:
                first.append((rows, future.wait()))
            before, answer = first[0]
            if not isinstance(answer, Tensor):
                return answer
            if answer.dim() == 0 or answer.shape[0] != before:
                return torch.zeros_like(answer)
            return answer.new_zeros((rows, *answer.shape[1:]))

        return forward

    def collect(self) -> Forward:
        """A function that returns the answers in the order of the calls."""
        made = iter(self._futures)

        def forward(*args: Any) -> Any:
            given, future = next(made, ((), None))
            if future is None or len(given) != len(args) or not all(map(_same, given, args)):
                # What is called depends on the answers, or on chance.
                future = self._forward_func(*args) if args else self._forward_func()
            return future.wait()

        return forward


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one is other
