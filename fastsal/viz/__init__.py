"""From a map to a picture: normalisation, colour maps, overlays, words, contact sheets; torch, numpy and Pillow."""

from fastsal.viz.colors import colormap, diverging_colormap
from fastsal.viz.figures import visualize_image_attr, visualize_image_attr_multiple
from fastsal.viz.normalize import plane, to_unit
from fastsal.viz.overlays import colorize, overlay
from fastsal.viz.sheet import Panel, contact_sheet, seconds_text
from fastsal.viz.text import (
    Html,
    VisualizationDataRecord,
    format_classname,
    format_special_tokens,
    format_tooltip,
    format_word_importances,
    visualize_text,
)
from fastsal.viz.timeseries import visualize_timeseries_attr

__all__ = [
    "Html",
    "Panel",
    "VisualizationDataRecord",
    "colorize",
    "colormap",
    "contact_sheet",
    "diverging_colormap",
    "format_classname",
    "format_special_tokens",
    "format_tooltip",
    "format_word_importances",
    "overlay",
    "plane",
    "seconds_text",
    "to_unit",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
    "visualize_text",
    "visualize_timeseries_attr",
]
