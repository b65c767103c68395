"""pytorch-grad-cam's image helpers, without OpenCV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastsal.compat.grad_cam._optional import optional
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
        cv2 = optional("cv2", "has the colours")
    except ImportError as error:
        raise ImportError(
            f"colormap: {colormap} needs OpenCV; COLORMAP_JET, {COLORMAP_JET}, does not: {error}"
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


def create_labels_legend(concept_scores: NDArray[Any], labels: Mapping[int, str], top_k: int = 2) -> list[str]:
    """For each row of scores [n, K] the names of its highest classes, with the scores, one a line.

    Args:
        concept_scores: [n, K].
        labels: names by class; of several, with commas between, the first three are taken.
        top_k: how many classes.
    """
    order = np.argsort(concept_scores, axis=1)[:, ::-1][:, :top_k]
    return [
        "\n".join(f"{','.join(labels[int(k)].split(',')[:3])}:{scores[k]:.2f}" for k in classes)
        for scores, classes in zip(concept_scores, order, strict=True)
    ]


def show_factorization_on_image(
    img: NDArray[np.floating[Any]],
    explanations: NDArray[np.floating[Any]],
    colors: Sequence[NDArray[Any]] | None = None,
    image_weight: float = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """Each pixel in the colour of the component that is strongest there, as bright as it is strong: uint8 [H, W, 3].

    Args:
        img: RGB [H, W, 3], from 0 to 1.
        explanations: the components' maps [n, H, W], from 0 to 1.
        colors: RGB of each, from 0 to 1; None takes Matplotlib's ``gist_rainbow``.
        image_weight: the image's share, from 0 to 1.
        concept_labels: a text for each component; a legend of them is put beside.

    Raises:
        ImportError: without Matplotlib, where colours or a legend are drawn by it.
    """
    count = len(explanations)
    if colors is None:
        colormap = optional("matplotlib", "has the colours").colormaps["gist_rainbow"]
        colors = [np.array(colormap(i)) for i in np.arange(0, 1, 1 / count)]
    strongest = explanations.argmax(axis=0)
    total = np.zeros(img.shape, dtype=np.float32)
    for index, color in enumerate(colors[:count]):
        levels = np.uint8(255 * np.where(strongest == index, explanations[index], 0))
        total += np.float32(_of_brightness(np.uint8(np.asarray(color)[:3] * 255), levels)) / 255  # type: ignore[arg-type]
    result: Any = np.uint8((img * image_weight + total * (1 - image_weight)) * 255)
    if concept_labels is not None:
        result = np.hstack([result, _legend(result.shape, colors, concept_labels)])
    return result  # type: ignore[no-any-return]


def _of_brightness(color: NDArray[np.uint8], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB [..., 3] of a colour's hue and saturation, in OpenCV's steps of 2 degrees and 1/255, with other values."""
    red, green, blue = (int(each) for each in color)
    highest, lowest = max(red, green, blue), min(red, green, blue)
    spread = highest - lowest
    saturation = round(255 * spread / highest) if highest else 0
    hue = 0.0
    if spread:
        sector = {red: (green - blue) / spread, green: 2 + (blue - red) / spread, blue: 4 + (red - green) / spread}
        hue = round(30 * (sector[highest] if highest != red else (green - blue) / spread)) % 180 / 30
    offsets = (np.array([5.0, 3.0, 1.0]) + hue) % 6
    shares = 1 - saturation / 255 * np.clip(np.minimum(offsets, 4 - offsets), 0, 1)
    found: NDArray[np.uint8] = np.rint(levels[..., None] * shares).astype(np.uint8)
    return found


def _legend(shape: tuple[int, ...], colors: Sequence[NDArray[Any]], concept_labels: Sequence[str]) -> NDArray[np.uint8]:
    """The texts beside lines in the components' colours, uint8 in the shape of an image [H, W, 3]."""
    matplotlib = optional("matplotlib", "draws the legend")
    figures, lines, canvases = (
        optional(f"matplotlib.{name}", "draws the legend") for name in ("figure", "lines", "backends.backend_agg")
    )
    height, width = shape[:2]
    inches = 1 / matplotlib.rcParams["figure.dpi"]
    figure = figures.Figure(figsize=(width * inches, height * inches))
    canvas = canvases.FigureCanvasAgg(figure)
    handles = [lines.Line2D([0], [0], color=color, lw=5 * height / 256) for color in colors[: len(concept_labels)]]
    axes = figure.add_subplot()
    fontsize = int(14 * height / 256 / max(1, len(concept_labels) / 6))
    axes.legend(handles, concept_labels, mode="expand", fancybox=True, shadow=True, fontsize=max(fontsize, 1))
    axes.axis("off")
    figure.tight_layout(pad=0, w_pad=0, h_pad=0)
    canvas.draw()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    return np.array(drawn.resize((width, height)))
