"""A contact sheet: one picture with the input and every method's overlay, each with its name and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_MARGIN = 16
_GAP = 14
_BACKGROUND = (250, 250, 248)
_INK = (28, 28, 30)
_FAINT = (110, 110, 116)
_RULE = (205, 205, 205)
_TITLE, _NAME, _DETAIL = 22, 18, 15  # font sizes in pixels


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet: image uint8 [H, W, 3], a name below it, and a fainter line below that."""

    image: Tensor
    name: str
    detail: str = ""


def seconds_text(seconds: float) -> str:
    """A time with two or three digits and its unit: "0.8 ms", "12 ms", "3.4 s"."""
    if seconds < 0.00995:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s"


def contact_sheet(panels: Sequence[Panel], title: str, *, columns: int = 4, tile: int = 224) -> Image.Image:
    """The panels in rows of at most `columns`, as even as can be, under a title, as an RGB picture.

    Each image is scaled to fit a square of `tile` pixels, its proportions kept; small images are enlarged without
    smoothing, so that their pixels stay visible. Text too long for its place is cut with an ellipsis.

    Raises ValueError without panels, for columns or tile below 1, or an image that is not uint8 [H, W, 3].
    """
    if not panels:
        raise ValueError("panels must hold at least one panel")
    if columns < 1 or tile < 1:
        raise ValueError(f"columns and tile must be at least 1, got {columns} and {tile}")
    rows = -(-len(panels) // columns)
    columns = -(-len(panels) // rows)
    line = _NAME + _DETAIL + 18
    top = _MARGIN + _TITLE + 18
    width = 2 * _MARGIN + columns * tile + (columns - 1) * _GAP
    height = top + rows * (tile + line) + (rows - 1) * _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _text(draw, (_MARGIN, _MARGIN), title, _TITLE, _INK, width - 2 * _MARGIN)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (tile + _GAP)
        upper = top + row * (tile + line + _GAP)
        picture = _fit(panel.image, tile)
        sheet.paste(picture, (left + (tile - picture.width) // 2, upper + (tile - picture.height) // 2))
        draw.rectangle((left - 1, upper - 1, left + tile, upper + tile), outline=_RULE)
        _text(draw, (left, upper + tile + 6), panel.name, _NAME, _INK, tile)
        _text(draw, (left, upper + tile + _NAME + 11), panel.detail, _DETAIL, _FAINT, tile)
    return sheet


def _fit(image: Tensor, tile: int) -> Image.Image:
    array = image.detach().cpu().numpy()
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"a panel's image must be uint8 [H, W, 3], got {array.dtype} {array.shape}")
    picture = Image.fromarray(array)
    scale = tile / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, ink: tuple[int, int, int], room: int
) -> None:
    font = ImageFont.load_default(size)
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[:1000])
    if draw.textlength(text, font=font) > room:
        while text and draw.textlength(text + "…", font=font) > room:
            text = text[:-1]
        text += "…"
    draw.text(place, text, ink, font=font)
