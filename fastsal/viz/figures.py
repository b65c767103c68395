"""Attributions as matplotlib figures, in Captum's form. Needs the extra ``plot``."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from torch import Tensor

METHODS = ("heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling")
SIGNS = ("positive", "absolute_value", "negative", "all")
COLORS = {"positive": "Greens", "absolute_value": "Blues", "negative": "Reds"}


def visualize_image_attr(
    attr: Any,
    original_image: Any = None,
    method: str = "heat_map",
    sign: str = "absolute_value",
    plt_fig_axis: Any = None,
    outlier_perc: float = 2,
    cmap: Any = None,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
) -> tuple[Any, Any]:
    """An attribution drawn beside, over or through its image.

    Args:
        attr: array or tensor [H, W, C] (summed over C) or [H, W].
        original_image: array or tensor [H, W, C] with values in [0, 1] or [0, 255]; every method but heat_map needs it.
        method: heat_map; blended_heat_map (over the image in grey); original_image; masked_image (the image times the
            attribution); alpha_scaling (the attribution as the image's opacity).
        sign: which attributions to show: positive, absolute_value, negative, or all (for heat maps).
        plt_fig_axis: figure and axis to draw on; new ones when None.
        outlier_perc: share of the total attribution, in percent, that the strongest elements may hold beyond the end of
            the scale; below 100.
        cmap: matplotlib's name of a colour map, or one; by the sign when None.
        alpha_overlay: opacity of a blended heat map.
        show_colorbar: a colour bar below (room for one where there is no heat map).
        title: of the axis.
        fig_size: of a new figure, in inches.
        use_pyplot: make the figure with pyplot and show it; otherwise it is only returned.

    Returns:
        (figure, axis).

    Raises:
        ImportError: without matplotlib.
        ValueError: for arguments outside of the above, or an attribution with NaN or infinite values.
    """
    _known("method", method, METHODS)
    _known("sign", sign, SIGNS)
    if method in ("masked_image", "alpha_scaling") and sign == "all":
        raise ValueError(f"sign: 'all' has two directions, which {method} cannot show; use another sign")
    plane = _array("attr", attr)
    if plane.ndim == 3:
        plane = plane.sum(2)
    image = None if original_image is None else _array("original_image", original_image)
    if image is None and method != "heat_map":
        raise ValueError(f"original_image: None, but {method} needs it")
    if image is not None and image.shape[:2] != plane.shape:
        raise ValueError(f"original_image: {image.shape[:2]} is not the attribution's {plane.shape}, height and width")
    if image is not None and image.max(initial=0) <= 1.0:
        image = _bytes(image * 255)
    scaled = _scaled(plane, sign, outlier_perc)
    figure, axis = _axis(plt_fig_axis, fig_size, use_pyplot)
    axis.xaxis.set_ticks_position("none")
    axis.yaxis.set_ticks_position("none")
    axis.set_yticklabels([])
    axis.set_xticklabels([])
    axis.grid(visible=False)

    drawn = None
    heat = {"cmap": _color_map(sign) if cmap is None else cmap, "vmin": -1 if sign == "all" else 0, "vmax": 1}
    if method == "heat_map":
        drawn = axis.imshow(scaled, **heat)
    elif method == "blended_heat_map":
        assert image is not None
        axis.imshow(image.mean(2) if image.ndim == 3 else image, cmap="gray")
        drawn = axis.imshow(scaled, alpha=alpha_overlay, **heat)
    elif method == "original_image":
        assert image is not None
        axis.imshow(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    else:
        assert image is not None
        channels = image if image.ndim == 3 else image[..., None]
        if method == "masked_image":
            axis.imshow(_bytes(channels * scaled[..., None]))
        else:
            channels = np.repeat(channels, 3, axis=2) if channels.shape[2] == 1 else channels
            axis.imshow(np.concatenate([channels, _bytes(scaled[..., None] * 255)], axis=2))
    if show_colorbar:
        from mpl_toolkits.axes_grid1 import make_axes_locatable

        below = make_axes_locatable(axis).append_axes("bottom", size="5%", pad=0.1)
        if drawn is None:
            below.axis("off")
        else:
            figure.colorbar(drawn, orientation="horizontal", cax=below)
    if title:
        axis.set_title(title)
    if use_pyplot:
        _pyplot().show()
    return figure, axis


def visualize_image_attr_multiple(
    attr: Any,
    original_image: Any,
    methods: list[str],
    signs: list[str],
    titles: list[str] | None = None,
    fig_size: tuple[int, int] = (8, 6),
    use_pyplot: bool = True,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """One attribution drawn by several methods, side by side.

    Args:
        attr, original_image: as of :func:`visualize_image_attr`.
        methods, signs, titles: one each per drawing.
        fig_size: of the figure, in inches.
        use_pyplot: make the figure with pyplot and show it; otherwise it is only returned.
        **kwargs: further arguments of :func:`visualize_image_attr`, for every drawing.

    Returns:
        (figure, axes), an array of axes where there are several.

    Raises:
        ImportError, ValueError: as of :func:`visualize_image_attr`, or for lists of different lengths.
    """
    if not methods or len(methods) != len(signs) or (titles is not None and len(titles) != len(methods)):
        lengths = f"{len(methods)} methods, {len(signs)} signs" + ("" if titles is None else f", {len(titles)} titles")
        raise ValueError(f"methods: {lengths}; as many of each are needed, at least one")
    if use_pyplot:
        figure, axes = _pyplot().subplots(1, len(methods), figsize=fig_size)
    else:
        figure = _figure(fig_size)
        axes = figure.subplots(1, len(methods))
    for index, (method, sign) in enumerate(zip(methods, signs, strict=True)):
        where = axes if len(methods) == 1 else axes[index]
        title = None if titles is None else titles[index]
        visualize_image_attr(
            attr, original_image, method, sign, plt_fig_axis=(figure, where), title=title, use_pyplot=False, **kwargs
        )
    figure.tight_layout()
    if use_pyplot:
        _pyplot().show()
    return figure, axes


def _known(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}")


def _array(name: str, value: Any) -> np.ndarray:
    """[H, W] or [H, W, C], finite."""
    array: np.ndarray = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"{name}: shape {array.shape} is neither [H, W] nor [H, W, C]")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: it has NaN or infinite values")
    return array


def _bytes(image: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.clip(image.astype(int), 0, 255)
    return clipped


def _scaled(plane: np.ndarray, sign: str, outlier_perc: float) -> np.ndarray:
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


def _color_map(sign: str) -> Any:
    if sign != "all":
        return COLORS[sign]
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("RdWhGn", ["red", "white", "green"])


def _axis(given: Any, fig_size: tuple[int, int], use_pyplot: bool) -> tuple[Any, Any]:
    if given is not None:
        figure, axis = given
        return figure, axis[0] if isinstance(axis, list) else axis
    if use_pyplot:
        figure, axis = _pyplot().subplots(figsize=fig_size)
        return figure, axis
    figure = _figure(fig_size)
    return figure, figure.subplots()


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'fastsal[plot]'") from error
    return matplotlib.pyplot


def _figure(fig_size: tuple[int, int]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'fastsal[plot]'") from error
    return Figure(figsize=fig_size)
