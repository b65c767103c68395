"""fastsal: drop-in, GPU-fast saliency explainers for PyTorch.

>>> import fastsal
>>> explanation = fastsal.explain(model, images, method=["gradcam", "rise"])

Names are resolved at their first use (PEP 562), so that importing this package imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fastsal._version import __version__ as __version__

if TYPE_CHECKING:
    from fastsal import compat as compat
    from fastsal import deploy as deploy
    from fastsal import explainers as explainers
    from fastsal import explanation as explanation
    from fastsal import lrp as lrp
    from fastsal import metrics as metrics
    from fastsal import models as models
    from fastsal import ops as ops
    from fastsal import targets as targets
    from fastsal import viz as viz
    from fastsal.deploy import *
    from fastsal.engine.prepare import *
    from fastsal.engine.reading import *
    from fastsal.engine.run.caches import clear_caches as clear_caches
    from fastsal.explainers import *
    from fastsal.explainers.attending import AttentionLayer as AttentionLayer
    from fastsal.explainers.attending import AttentionLayers as AttentionLayers
    from fastsal.explainers.attending import attention as attention
    from fastsal.explanation import *

_HOMES: dict[str, tuple[str, ...] | None] = {
    "explainers": None,
    "explanation": None,
    "engine.prepare": ("Prepared", "prepare"),
    "engine.reading": ("Geometry", "layers"),
    "engine.run.caches": ("clear_caches",),
    "explainers.attending": ("AttentionLayer", "AttentionLayers", "attention"),
    "deploy": ("Package", "export", "load"),
}
"""Rooms whose names are the package's own: these, or all that they list."""
_ROOMS = (
    "compat",
    "deploy",
    "engine",
    "explainers",
    "explanation",
    "lrp",
    "metrics",
    "models",
    "ops",
    "targets",
    "viz",
)
"""What is imported when it is first asked for as an attribute."""


if not TYPE_CHECKING:  # a type checker knows the names, and what is none of them

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return importlib.import_module(f"{__name__}.{name}")
        if name == "__all__":
            return _names()
        for home in () if name.startswith("_") else _HOMES:
            module = importlib.import_module(f"{__name__}.{home}")
            if name in (_HOMES[home] or module.__all__):
                globals()[name] = value = getattr(module, name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _names() -> list[str]:
    """``__all__``, made when it is asked for: an explainer is listed in one place, the explainers' room."""
    found = {"__version__", "targets"}
    for home, names in _HOMES.items():
        found.update(names or importlib.import_module(f"{__name__}.{home}").__all__)
    return sorted(found)


def __dir__() -> list[str]:
    return sorted({*globals(), *_names(), *_ROOMS})
