"""Errors of ours that are also ``AssertionError``, which is what Captum raises and its programs may handle."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

OURS = (ValueError, TypeError)


_made: dict[type[Exception], type[Exception]] = {}


def _also_assertion(kind: type[Exception]) -> type[Exception]:
    if kind not in _made:
        _made[kind] = _derived(kind)
    return _made[kind]


def _derived(kind: type[Exception]) -> type[Exception]:
    return type(kind.__name__, (kind, AssertionError), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _is_ours(traceback: TracebackType | None) -> bool:
    """Whether an error was raised in a file of fastsal, rather than by the user's model or a library."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__", ""))
    return name.startswith("fastsal.")


def _raise(error: Exception) -> NoReturn:
    kind = _also_assertion(type(error))
    made = kind.__new__(kind, *error.args)
    made.args = error.args
    made.__dict__.update(error.__dict__)
    raise made.with_traceback(error.__traceback__) from error.__cause__


def also_assertions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with our ``ValueError`` and ``TypeError`` raised as ``AssertionError`` too; those of others stay."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except OURS as error:
            if isinstance(error, AssertionError) or not _is_ours(error.__traceback__):
                raise
            _raise(error)

    return called
