"""From a map to a picture: normalisation, colour maps, overlays and contact sheets, with torch, numpy and Pillow."""

from fastsal.viz.colors import colormap, diverging_colormap
from fastsal.viz.figures import visualize_image_attr, visualize_image_attr_multiple
from fastsal.viz.normalize import plane, to_unit
from fastsal.viz.overlays import colorize, overlay
from fastsal.viz.sheet import Panel, contact_sheet, seconds_text

__all__ = [
    "Panel",
    "colorize",
    "colormap",
    "contact_sheet",
    "diverging_colormap",
    "overlay",
    "plane",
    "seconds_text",
    "to_unit",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
]
