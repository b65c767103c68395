"""What figures share: arrays that are checked, attributions scaled by their sign, matplotlib (extra ``plot``)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from torch import Tensor

SIGNS = ("positive", "absolute_value", "negative", "all")
COLORS = {"positive": "Greens", "absolute_value": "Blues", "negative": "Reds"}


def known(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}")


def array_of(name: str, value: Any) -> np.ndarray:
    """[H, W] or [H, W, C], finite."""
    array: np.ndarray = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"{name}: shape {array.shape} is neither [H, W] nor [H, W, C]")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: it has NaN or infinite values")
    return array


def as_bytes(image: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.clip(image.astype(int), 0, 255)
    return clipped


def scaled_to(plane: np.ndarray, sign: str, outlier_perc: float) -> np.ndarray:
    """The part with the sign, divided so that all but ``outlier_perc`` % of the total lies in [-1, 1]."""
    if not 0 <= outlier_perc < 100:
        raise ValueError(f"outlier_perc: {outlier_perc} is not in [0, 100)")
    if sign == "positive":
        plane = np.maximum(plane, 0)
    elif sign == "negative":
        plane = -np.minimum(plane, 0)
    elif sign == "absolute_value":
        plane = np.abs(plane)
    ordered = np.sort(np.abs(plane), axis=None)
    total = np.cumsum(ordered)
    limit = float(ordered[np.argmax(total >= total[-1] * 0.01 * (100.0 - outlier_perc))])
    if math.isclose(limit, 0.0, abs_tol=1e-5):
        warnings.warn(f"attr: it is at most {limit:.1e} for sign {sign!r}; the drawing may mislead", stacklevel=3)
    return np.zeros_like(plane) if limit == 0 else np.clip(plane / limit, -1, 1)


def color_map(sign: str) -> Any:
    if sign != "all":
        return COLORS[sign]
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("RdWhGn", ["red", "white", "green"])


def pyplot() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'fastsal[plot]'") from error
    return matplotlib.pyplot


def new_figure(fig_size: tuple[int, int]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'fastsal[plot]'") from error
    return Figure(figsize=fig_size)


def below(axis: Any, pad: float) -> Any:
    """An axis for a colour bar below another one."""
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    return make_axes_locatable(axis).append_axes("bottom", size="5%", pad=pad)
