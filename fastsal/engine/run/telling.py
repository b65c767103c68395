"""Warnings that name the line of the caller's program, however deep they come from."""

from __future__ import annotations

import sys
import warnings

_PACKAGE = __name__.split(".", 1)[0]


def tell(message: str) -> None:
    """A ``UserWarning`` at the first line outside of this package that led here."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".", 1)[0] == _PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
