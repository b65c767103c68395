"""Figures of attributions of texts and segments, with matplotlib (the extra ``plot``)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
POSITIVE, NEGATIVE = "#4772b3", "#d0365b"
"""Colours of what speaks for a text, and against it."""


def bars(values: Any, names: Sequence[str], show: bool) -> Any:
    """A bar for each value."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(max(len(values) / 2, 6.4), max(len(values) / 4, 4.8)))
    axes.bar(range(len(values)), values, color=[POSITIVE if value >= 0 else NEGATIVE for value in values])
    _columns(axes, names)
    axes.set_ylabel("Sequence Attribution", rotation=90, va="bottom")
    return _finished(plt, figure, axes, show)


def table(values: Any, columns: Sequence[str], rows: Sequence[str], show: bool) -> Any:
    """A coloured cell with its number for each value [rows, columns]."""
    plt = _pyplot()
    height, width = values.shape
    figure, axes = plt.subplots(figsize=(max(width * 1.3, 6.4), max(height / 2.5, 4.8)))
    axes.grid(visible=False)
    most = float(np.abs(values).max(initial=0)) or 1.0
    drawn = axes.imshow(values, vmin=-most, vmax=most, cmap=_colors(), aspect="auto")
    figure.colorbar(drawn, ax=axes).ax.set_ylabel("Token Attribution", rotation=-90, va="bottom")
    _columns(axes, columns)
    axes.set_yticks(range(height), labels=[_plain(name) for name in rows])
    for row in range(height):
        for column in range(width):
            value = values[row, column]
            ink = "black" if abs(value) < 0.6 * most else "white"
            axes.text(column, row, f"{value:.4f}", ha="center", va="center", color=ink)
    return _finished(plt, figure, axes, show)


def heat(
    image: Any, values: Any, masks: list[Mask], names: Sequence[str], show: bool, border_width: int, legends: bool
) -> Any:
    """Values [H, W] over a picture in grey, with its segments' borders and names."""
    plt = _pyplot()
    figure, axes = plt.subplots()
    axes.imshow(image.mean(2) if image.ndim == 3 else image, cmap="gray")
    most = float(np.abs(values).max(initial=0)) or 1.0
    drawn = axes.imshow(values, vmin=-most, vmax=most, cmap=_colors(), alpha=0.8)
    figure.colorbar(drawn, ax=axes).ax.set_ylabel("Attribution", rotation=-90, va="bottom")
    for mask, name in zip(masks, names, strict=True):
        _outlined(axes, mask, border_width, (0.0, 0.0, 0.0, 0.8))
        if legends:
            _named(axes, mask, name)
    axes.axis("off")
    return _finished(plt, figure, axes, show)


def segments(image: Any, masks: list[Mask], names: Sequence[str], show: bool, border_width: int, legends: bool) -> Any:
    """A picture with its segments in colours."""
    plt = _pyplot()
    figure, axes = plt.subplots()
    axes.imshow(image)
    colors = plt.get_cmap("hsv")(np.linspace(0, 1, len(masks), endpoint=False))[:, :3]
    for mask, name, color in zip(masks, names, colors, strict=True):
        axes.imshow(mask[..., None] * np.array([*color, 0.6]))
        _outlined(axes, mask, border_width, (*color, 0.8))
        if legends:
            _named(axes, mask, name)
    axes.axis("off")
    return _finished(plt, figure, axes, show)


def _outlined(axes: Any, mask: Mask, width: int, color: tuple[float, ...]) -> None:
    """A line inside a segment: its pixels that are at most so far from another one's."""
    if width < 1 or not mask.any():
        return
    inside = mask
    for _ in range(width):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    axes.imshow((mask & ~inside)[..., None] * np.array(color))


def _named(axes: Any, mask: Mask, name: str) -> None:
    if mask.any():
        rows, columns = np.nonzero(mask)
        box = {"boxstyle": "round,pad=0.2", "facecolor": "black", "alpha": 0.6}
        axes.text(columns.mean(), rows.mean(), name, color="white", ha="center", va="center", bbox=box)


def _columns(axes: Any, names: Sequence[str]) -> None:
    shown = [textwrap.shorten(_plain(name), width=50, placeholder="...") for name in names]
    axes.set_xticks(range(len(names)), labels=shown, rotation=-30, ha="right", rotation_mode="anchor")
    axes.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False)


def _plain(name: str) -> str:
    return repr(name)[1:-1]


def _colors() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("against, for", [NEGATIVE, "white", POSITIVE])


def _finished(plt: Any, figure: Any, axes: Any, show: bool) -> Any:
    figure.set_facecolor("white")
    if not show:
        return figure, axes
    plt.show()
    return None


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'fastsal[plot]'") from error
    return matplotlib.pyplot
