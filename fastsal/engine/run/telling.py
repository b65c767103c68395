"""Warnings that name the line of the caller's program, however deep they come from."""

from __future__ import annotations

import sys
import warnings

_BETWEEN = (__name__.partition(".")[0], "torch", "contextlib")
"""What is between the caller and whoever warns."""


def tell(message: str) -> None:
    """A ``UserWarning`` at the first line outside of this package, PyTorch and contexts that led here."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
