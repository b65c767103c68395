"""torchcam's drawing of a map over its image."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from PIL import Image


def overlay_mask(img: Image.Image, mask: Image.Image, colormap: Any = "jet", alpha: float = 0.7) -> Image.Image:
    """The image blended with a map's colours, RGB, in the image's size.

    Args:
        img: RGB or grey.
        mask: the map, of mode F from 0 to 1 or of mode L; resized bicubically, then squared.
        colormap: of Matplotlib's, or a name of one.
        alpha: the image's share, from 0 to below 1.

    Raises:
        TypeError, ValueError: for arguments outside of the above.
        ImportError: without Matplotlib.
    """
    if not isinstance(img, Image.Image) or not isinstance(mask, Image.Image):
        raise TypeError(f"img, mask: {type(img).__name__} and {type(mask).__name__} are not both PIL images")
    if not isinstance(alpha, float) or not 0 <= alpha < 1:
        raise ValueError(f"alpha: {alpha!r} is not a float from 0 to below 1")
    if len(img.getbands()) not in (1, 3):
        raise ValueError(f"img: mode {img.mode} is neither grey nor RGB")
    try:
        colormaps = importlib.import_module("matplotlib").colormaps
    except ImportError as error:
        raise ImportError("Matplotlib is not installed; it has the colours: pip install matplotlib") from error
    levels = np.asarray(mask.resize(img.size, resample=Image.Resampling.BICUBIC))
    if levels.dtype == np.uint8:
        levels = levels / 255
    colors = colormaps.get_cmap(colormap)(levels**2, bytes=True)[..., :3]
    return Image.blend(Image.fromarray(np.ascontiguousarray(colors)), img.convert("RGB"), alpha)
