"""pytorch-grad-cam's Sobel edges, the map that knows no model: a control, without OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHARES = np.array([0.299, 0.587, 0.114])
_SMOOTH, _DIFFERENCE = (1, 2, 1), (-1, 0, 1)


def sobel_cam(img: NDArray[Any]) -> NDArray[np.uint8]:
    """The mean size of an image's horizontal and vertical changes: uint8 [H, W].

    Args:
        img: RGB [H, W, 3], uint8, or float32 of a like range.
    """
    grey = np.asarray(img, np.float64) @ _SHARES
    if img.dtype == np.uint8:
        grey = np.floor(grey + 0.5)
    sizes = [np.rint(np.abs(_filtered(_filtered(grey, down, 0), across, 1)).clip(0, 255)) for down, across in _WAYS]
    return np.rint(sum(sizes) / 2).astype(np.uint8)  # type: ignore[no-any-return]


_WAYS = ((_SMOOTH, _DIFFERENCE), (_DIFFERENCE, _SMOOTH))


def _filtered(values: NDArray[Any], taps: tuple[int, ...], axis: int) -> NDArray[Any]:
    """Correlated with three taps along an axis; beyond the border the values are mirrored around the last."""
    padded = np.pad(values, [(1, 1) if i == axis else (0, 0) for i in range(2)], mode="reflect")
    extent = values.shape[axis]
    return sum(tap * padded.take(range(i, i + extent), axis) for i, tap in enumerate(taps))  # type: ignore[return-value]
