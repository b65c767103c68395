"""The names of ``captum.attr.visualization``: those that :mod:`fastsal.viz` has, and the enumerations of its options.

What is left, such as ``draw_mask_border``, is Captum's own where it is installed.
"""

from __future__ import annotations

import enum
import importlib
from typing import Any

from fastsal.viz import (
    VisualizationDataRecord,
    figures,
    format_classname,
    format_special_tokens,
    format_tooltip,
    format_word_importances,
    timeseries,
    visualize_image_attr,
    visualize_image_attr_multiple,
    visualize_text,
    visualize_timeseries_attr,
)

__all__ = [
    "ImageVisualizationMethod",
    "TimeseriesVisualizationMethod",
    "VisualizationDataRecord",
    "VisualizeSign",
    "format_classname",
    "format_special_tokens",
    "format_tooltip",
    "format_word_importances",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
    "visualize_text",
    "visualize_timeseries_attr",
]

ImageVisualizationMethod = enum.Enum("ImageVisualizationMethod", list(figures.METHODS))  # type: ignore[misc]
TimeseriesVisualizationMethod = enum.Enum("TimeseriesVisualizationMethod", list(timeseries.METHODS))  # type: ignore[misc]
VisualizeSign = enum.Enum("VisualizeSign", list(figures.SIGNS))  # type: ignore[misc]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        return getattr(importlib.import_module("captum.attr._utils.visualization"), name)
    except ImportError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
