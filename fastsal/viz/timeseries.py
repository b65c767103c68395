"""Attributions of time series as matplotlib figures, in Captum's form. Needs the extra ``plot``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from fastsal.viz._drawing import SIGNS, array_of, below, color_map, known, new_figure, pyplot, scaled_to

METHODS = ("overlay_individual", "overlay_combined", "colored_graph")


def visualize_timeseries_attr(
    attr: Any,
    data: Any,
    x_values: Any = None,
    method: str = "overlay_individual",
    sign: str = "absolute_value",
    channel_labels: list[str] | None = None,
    channels_last: bool = True,
    plt_fig_axis: Any = None,
    outlier_perc: float = 2,
    cmap: Any = None,
    alpha_overlay: float = 0.7,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
    **pyplot_kwargs: Any,
) -> tuple[Any, Any]:
    """An attribution drawn behind or along the curves of a time series.

    Args:
        attr: array or tensor [N, C] of N equidistant times and C channels.
        data: the series, in the same shape.
        x_values: of the times, [N]; 0 to N - 1 when None.
        method: overlay_individual (an axis for each channel, its attribution in colours behind the curve);
            overlay_combined (all curves on one axis, before the sum of the attributions); colored_graph (an axis for
            each channel, its curve in the colours).
        sign: which attributions to show: positive, absolute_value, negative, or all.
        channel_labels: one for each channel.
        channels_last: False takes attr and data as [C, N].
        plt_fig_axis: figure and axes to draw on, an axis for each channel; new ones when None.
        outlier_perc: share of the total attribution, in percent, that the strongest elements may hold beyond the end of
            the scale; below 100.
        cmap: matplotlib's name of a colour map, or one; by the sign when None.
        alpha_overlay: opacity of the colours.
        show_colorbar: a colour bar below.
        title: of the first axis.
        fig_size: of a new figure, in inches.
        use_pyplot: make the figure with pyplot and show it; otherwise it is only returned.
        **pyplot_kwargs: of the curves, for matplotlib.

    Returns:
        (figure, axis), an array of axes where there are several.

    Raises:
        ImportError: without matplotlib.
        ValueError: for arguments outside of the above, or an attribution with NaN or infinite values.
    """
    known("method", method, METHODS)
    known("sign", sign, SIGNS)
    values, series = array_of("attr", attr), array_of("data", data)
    if values.ndim != 2 or series.shape != values.shape:
        raise ValueError(f"data: shape {series.shape} beside attr's {values.shape}; both are [times, channels]")
    if channels_last:
        values, series = values.T, series.T
    channels, times = series.shape
    if channels > times:
        warnings.warn(f"attr: {channels} channels of {times} times; is channels_last right?", stacklevel=2)
    if times < 2:
        raise ValueError(f"attr: {times} time has no step to draw; two are needed")
    if method == "overlay_combined":
        values = values.sum(0, keepdims=True)
    x = np.arange(times) if x_values is None else np.asarray(x_values)
    if x.shape != (times,):
        raise ValueError(f"x_values: shape {x.shape} is not [{times}], one for each time")
    if channel_labels is not None and len(channel_labels) != channels:
        raise ValueError(f"channel_labels: {len(channel_labels)} given for {channels} channels")
    scaled = scaled_to(values, sign, outlier_perc)
    figure, given = _axes(plt_fig_axis, len(values), fig_size, use_pyplot)
    axes = np.atleast_1d(np.asarray(given, dtype=object))
    if len(axes) < len(values):
        raise ValueError(f"plt_fig_axis: {len(axes)} axes for {len(values)} channels; one each is needed")

    from matplotlib import colors

    scale = colors.Normalize(-1 if sign == "all" else 0, 1)
    chosen = color_map(sign) if cmap is None else cmap
    chosen = _by_name(chosen) if isinstance(chosen, str) else chosen
    if method == "colored_graph":
        for axis, row, curve in zip(axes, scaled, series, strict=False):
            _colored(axis, x, curve, row, chosen, scale, pyplot_kwargs)
    elif method == "overlay_individual":
        for axis, row, curve in zip(axes, scaled, series, strict=False):
            axis.plot(x, curve, **pyplot_kwargs)
            _behind(axis, x, chosen(scale(row)), alpha_overlay)
    else:
        axes[0].set_prop_cycle(color=_by_name("Dark2").colors)
        for channel, curve in enumerate(series):
            axes[0].plot(x, curve, label=channel_labels[channel] if channel_labels else None, **pyplot_kwargs)
        _behind(axes[0], x, chosen(scale(scaled[0])), alpha_overlay)
        if channel_labels:
            axes[0].legend(loc="best")
    if method != "overlay_combined":
        figure.subplots_adjust(hspace=0)
        for axis, name in zip(axes, channel_labels or [], strict=False):
            axis.set_ylabel(name)
    for axis in axes:
        axis.set_xlim(x[0], x[-1])
    if show_colorbar:
        from matplotlib.cm import ScalarMappable

        alpha = 1.0 if method == "colored_graph" else alpha_overlay
        room = below(axes[-1], pad=0.4)
        figure.colorbar(ScalarMappable(scale, chosen), orientation="horizontal", cax=room, alpha=alpha)
    if title:
        axes[0].set_title(title)
    if use_pyplot:
        pyplot().show()
    return figure, given


def _behind(axis: Any, x: Any, shades: Any, alpha: float) -> None:
    """A strip in a colour around each time."""
    half = (x[1] - x[0]) / 2
    for middle, shade in zip(x, shades, strict=True):
        axis.axvspan(middle - half, middle + half, facecolor=shade, edgecolor=None, alpha=alpha)


def _colored(axis: Any, x: Any, curve: Any, row: Any, chosen: Any, scale: Any, options: dict[str, Any]) -> None:
    """A curve whose pieces are in the colours of the times at which they begin."""
    from matplotlib.collections import LineCollection

    points = np.stack([x, curve], 1)
    lines = LineCollection(list(np.stack([points[:-1], points[1:]], 1)), cmap=chosen, norm=scale, **options)
    lines.set_array(row)
    axis.add_collection(lines)
    margin = 0.1 * (curve.max() - curve.min()) or 1.0
    axis.set_ylim(curve.min() - margin, curve.max() + margin)


def _by_name(name: str) -> Any:
    import matplotlib

    return matplotlib.colormaps[name]


def _axes(given: Any, rows: int, fig_size: tuple[int, int], use_pyplot: bool) -> tuple[Any, Any]:
    if given is not None:
        return given[0], given[1]
    figure = pyplot().figure(figsize=fig_size) if use_pyplot else new_figure(fig_size)
    return figure, figure.subplots(nrows=rows, sharex=True)
