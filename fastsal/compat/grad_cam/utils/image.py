"""pytorch-grad-cam's image helpers, without OpenCV."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastsal.compat.grad_cam._rendering import scaled

COLORMAP_JET = 2
"""OpenCV's constant."""


def _jet() -> NDArray[np.uint8]:
    """OpenCV's COLORMAP_JET: RGB [256, 3].

    Straight lines from 0 to 1 and back, of slope 4, around 3/4 (red), 1/2 and 1/4 of the way; halves round to even,
    but for one whose decimals in OpenCV's table lie just below it.
    """
    levels = np.arange(256)[:, None]
    # In 255ths, so that the halves are exact.
    lines = 382.5 - np.abs(4 * levels - 255 * np.array([3, 2, 1]))
    table: NDArray[np.uint8] = np.rint(lines.clip(0, 255)).astype(np.uint8)
    table[159, 2] = 1
    return table


def _colored(levels: NDArray[np.uint8], colormap: int) -> NDArray[np.uint8]:
    """RGB [..., 3] of levels [...]."""
    if colormap == COLORMAP_JET:
        return _jet()[levels]
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise ImportError(
            f"colormap: {colormap} needs OpenCV, which is not installed (pip install opencv-python-headless); "
            f"COLORMAP_JET, {COLORMAP_JET}, does not"
        ) from error
    found: NDArray[np.uint8] = cv2.applyColorMap(levels, colormap)[..., ::-1]
    return found


def show_cam_on_image(
    img: NDArray[np.floating[Any]],
    mask: NDArray[np.floating[Any]],
    use_rgb: bool = False,
    colormap: int = COLORMAP_JET,
    image_weight: float = 0.5,
) -> NDArray[np.uint8]:
    """The map's colours over the image, stretched to the brightest value: uint8 [H, W, 3].

    Args:
        img: [H, W, 3], from 0 to 1.
        mask: the map [H, W], from 0 to 1.
        use_rgb: whether the colours are RGB, as the image then is; else BGR.
        colormap: OpenCV's constant; any but COLORMAP_JET needs OpenCV.
        image_weight: the image's share, from 0 to 1.

    Raises:
        ValueError: for an image with values above 1, or a share beyond 0 to 1.
        ImportError: for another colormap without OpenCV.
    """
    if np.max(img) > 1:
        raise ValueError(f"img: its largest value is {np.max(img)}; pass floating point from 0 to 1")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"image_weight: {image_weight} is not in [0, 1]")
    colors = _colored(np.uint8(255 * np.asarray(mask)), colormap)  # type: ignore[arg-type]
    heat = np.float32(colors if use_rgb else colors[..., ::-1]) / 255
    blended = (1 - image_weight) * heat + image_weight * img
    top = np.max(blended)
    return (255 * (blended / top if top > 0 else blended)).astype(np.uint8)


def preprocess_image(
    img: NDArray[Any], mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> Tensor:
    """Images [1, C, H, W]: (img - mean) / std, of an array [H, W, C] or [H, W]; uint8 is divided by 255 before."""
    array = np.asarray(img)
    tensor = torch.from_numpy(np.array(array[..., None] if array.ndim == 2 else array)).permute(2, 0, 1)
    if tensor.dtype == torch.uint8:
        tensor = tensor.to(torch.get_default_dtype()) / 255
    shift, scale = (torch.tensor(list(values), dtype=tensor.dtype).view(-1, 1, 1) for values in (mean, std))
    return ((tensor - shift) / scale)[None].contiguous()


def deprocess_image(img: NDArray[Any]) -> NDArray[np.uint8]:
    """An array of any shape as uint8: its mean becomes half grey, its standard deviation a tenth of the range."""
    values = (img - np.mean(img)) / (np.std(img) + 1e-5) * 0.1 + 0.5
    return np.uint8(np.clip(values, 0, 1) * 255)  # type: ignore[return-value]


def scale_cam_image(cam: NDArray[Any], target_size: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Maps [N, H, W] or [N, D, H, W], each from 0 to 1 and then resized: float32.

    Args:
        cam: the maps.
        target_size: (width, height) or (width, height, depth); None keeps theirs.
    """
    size = None if target_size is None else tuple(target_size)[::-1]
    found: NDArray[np.float32] = scaled(torch.from_numpy(np.array(cam)), size).numpy()
    return found


def scale_accross_batch_and_channels(tensor: NDArray[Any], target_size: Sequence[int]) -> NDArray[np.float32]:
    """:func:`scale_cam_image` of every channel of [B, C, H, W] (or [B, C, D, H, W]) on its own."""
    flat = scale_cam_image(tensor.reshape(-1, *tensor.shape[2:]), target_size)
    return flat.reshape(*tensor.shape[:2], *flat.shape[1:])
