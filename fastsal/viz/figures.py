"""Attributions as matplotlib figures, in Captum's form. Needs the extra ``plot``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsal.viz._drawing import SIGNS, array_of, as_bytes, below, color_map, known, new_figure, pyplot, scaled_to

METHODS = ("heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling")


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
    known("method", method, METHODS)
    known("sign", sign, SIGNS)
    if method in ("masked_image", "alpha_scaling") and sign == "all":
        raise ValueError(f"sign: 'all' has two directions, which {method} cannot show; use another sign")
    plane = array_of("attr", attr)
    if plane.ndim == 3:
        plane = plane.sum(2)
    image = None if original_image is None else array_of("original_image", original_image)
    if image is None and method != "heat_map":
        raise ValueError(f"original_image: None, but {method} needs it")
    if image is not None and image.shape[:2] != plane.shape:
        raise ValueError(f"original_image: {image.shape[:2]} is not the attribution's {plane.shape}, height and width")
    if image is not None and image.max(initial=0) <= 1.0:
        image = as_bytes(image * 255)
    scaled = scaled_to(plane, sign, outlier_perc)
    figure, axis = _axis(plt_fig_axis, fig_size, use_pyplot)
    axis.xaxis.set_ticks_position("none")
    axis.yaxis.set_ticks_position("none")
    axis.set_yticklabels([])
    axis.set_xticklabels([])
    axis.grid(visible=False)

    drawn = None
    heat = {"cmap": color_map(sign) if cmap is None else cmap, "vmin": -1 if sign == "all" else 0, "vmax": 1}
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
            axis.imshow(as_bytes(channels * scaled[..., None]))
        else:
            channels = np.repeat(channels, 3, axis=2) if channels.shape[2] == 1 else channels
            axis.imshow(np.concatenate([channels, as_bytes(scaled[..., None] * 255)], axis=2))
    if show_colorbar:
        room = below(axis, pad=0.1)
        if drawn is None:
            room.axis("off")
        else:
            figure.colorbar(drawn, orientation="horizontal", cax=room)
    if title:
        axis.set_title(title)
    if use_pyplot:
        pyplot().show()
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
        figure, axes = pyplot().subplots(1, len(methods), figsize=fig_size)
    else:
        figure = new_figure(fig_size)
        axes = figure.subplots(1, len(methods))
    for index, (method, sign) in enumerate(zip(methods, signs, strict=True)):
        where = axes if len(methods) == 1 else axes[index]
        title = None if titles is None else titles[index]
        visualize_image_attr(
            attr, original_image, method, sign, plt_fig_axis=(figure, where), title=title, use_pyplot=False, **kwargs
        )
    figure.tight_layout()
    if use_pyplot:
        pyplot().show()
    return figure, axes


def _axis(given: Any, fig_size: tuple[int, int], use_pyplot: bool) -> tuple[Any, Any]:
    if given is not None:
        figure, axis = given
        return figure, axis[0] if isinstance(axis, list) else axis
    if use_pyplot:
        figure, axis = pyplot().subplots(figsize=fig_size)
        return figure, axis
    figure = new_figure(fig_size)
    return figure, figure.subplots()
