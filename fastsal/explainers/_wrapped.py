"""What every ``attribute`` has around it: a ``__wrapped__`` for Captum's own explainers, and a note of what it ran."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from fastsal.engine.run import observed

P = ParamSpec("P")
R = TypeVar("R")


def attribute_method(function: Callable[P, R]) -> Callable[P, R]:
    """Give a method the ``__wrapped__`` that packages written for Captum look for, and keep its sweeps for plan()."""

    @functools.wraps(function)
    def attribute(*args: P.args, **kwargs: P.kwargs) -> R:
        with observed() as sweeps:
            result = function(*args, **kwargs)
        explainer: Any = args[0]
        explainer.__dict__["_sweeps"] = tuple(sweeps)
        return result

    return attribute
