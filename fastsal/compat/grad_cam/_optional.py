"""Packages that only some of pytorch-grad-cam's helpers need."""

from __future__ import annotations

import importlib
from typing import Any

_PACKAGES = {
    "cv2": ("OpenCV", "opencv-python-headless"),
    "matplotlib": ("Matplotlib", "matplotlib"),
    "scipy": ("SciPy", "scipy"),
    "sklearn": ("scikit-learn", "scikit-learn"),
}


def optional(module: str, purpose: str) -> Any:
    """A module of a package that need not be installed.

    Raises:
        ImportError: where it is not, which says what it is for and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name, package = _PACKAGES[module.partition(".")[0]]
        raise ImportError(f"{name} is not installed; it {purpose}: pip install {package}") from error
