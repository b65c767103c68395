"""Captum's own explainers call ``attribute.__wrapped__`` of the one that they are given; ours has one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def attribute_method(function: Callable[P, R]) -> Callable[P, R]:
    """Give a method the ``__wrapped__`` that packages written for Captum look for."""

    @functools.wraps(function)
    def attribute(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return attribute
