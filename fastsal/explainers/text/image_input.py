"""A picture whose segments are the features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastsal.explainers.text import _plots
from fastsal.explainers.text.interpretable_input import InterpretableInput, is_there


class ImageMaskInput(InterpretableInput):
    """A picture in segments, each painted over where it is taken away.

    >>> from PIL import Image
    >>> halves = torch.arange(4).expand(3, 4) // 2
    >>> picture = fastsal.ImageMaskInput(Image.new("RGB", (4, 3)), halves)
    >>> [picture.to_model_input(torch.tensor([[1, 0]])).getpixel((column, 0))[0] for column in range(4)]
    [0, 0, 255, 255]

    Args:
        image: of Pillow, with the channels of ``baseline``.
        mask: segment of each pixel, [H, W]; None takes the whole picture as one.
        mask_list: instead of it, a mask [H, W] for each segment, true inside; these may overlap.
        baseline: colour of what is taken away.
        processor_fn: of a picture, returns the model's input, with a prompt's tokens say.

    Attributes:
        mask_id_to_idx: feature of each id of the mask.
        original_model_inputs: of the picture as it is.

    Raises:
        ValueError: for masks in another size than the picture.
    """

    def __init__(
        self,
        image: Image.Image,
        mask: Tensor | None = None,
        mask_list: list[Tensor] | None = None,
        baseline: tuple[int, int, int] = (255, 255, 255),
        processor_fn: Callable[[Image.Image], Any] = lambda image: image,
    ) -> None:
        size = (image.size[1], image.size[0])
        for name, given in (("mask_list", mask_list or []), ("mask", [] if mask is None or mask_list else [mask])):
            for each in given:
                if tuple(each.shape) != size:
                    raise ValueError(f"{name}: shape {tuple(each.shape)} is not the picture's {size}, height and width")
        self.image, self.baseline, self.processor_fn = image, baseline, processor_fn
        self.mask_list: list[Tensor] = list(mask_list or [])
        if mask_list:
            self.mask, ids = torch.empty(0), list(range(len(mask_list)))
        else:
            self.mask = torch.zeros(size, dtype=torch.int32) if mask is None else mask
            ids = torch.unique(self.mask).cpu().tolist()
        self.n_itp_features = len(ids)
        self.mask_id_to_idx = {int(each): place for place, each in enumerate(ids)}
        self.values = [f"image_feature_{each}" for each in self.mask_id_to_idx]
        self.original_model_inputs = processor_fn(image)

    def to_tensor(self) -> Tensor:
        return torch.ones(1, self.n_itp_features)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """What ``processor_fn`` makes of the picture, as of :meth:`InterpretableInput.to_model_input`."""
        if perturbed_tensor is None:
            return self.original_model_inputs
        pixels = np.array(self.image)
        for segment, there in zip(self.get_mask_list(), is_there(perturbed_tensor), strict=True):
            if not there:
                pixels[segment.cpu().numpy().astype(bool)] = self.baseline
        return self.processor_fn(Image.fromarray(pixels.astype("uint8")))

    def get_mask_list(self) -> list[Tensor]:
        """A mask [H, W] of bool for each feature (``mask_list`` as it was given)."""
        return self.mask_list or [self.mask == each for each in self.mask_id_to_idx]

    def format_pixel_attr(self, itp_attr: Tensor) -> Tensor:
        """Attributions [..., features] as those of the pixels [..., H, W]: the sum over the segments of a pixel."""
        segments = torch.stack([each.to(itp_attr.device).bool() for each in self.get_mask_list()])
        return torch.einsum("...f,fhw->...hw", itp_attr, segments.to(itp_attr.dtype))

    def plot_mask_overlay(self, show: bool = False, border_width: int = 0, show_legends: bool = True) -> Any:
        """The picture with its segments in colours.

        Args:
            show: show the figure, and return None; otherwise it is returned.
            border_width: of a line inside each segment, in pixels.
            show_legends: write each id in the middle of its segment.

        Returns:
            (figure, axes), or None.

        Raises:
            ImportError: without matplotlib.
        """
        names: Sequence[str] = [str(each) for each in self.mask_id_to_idx]
        masks = [each.cpu().numpy().astype(bool) for each in self.get_mask_list()]
        return _plots.segments(np.array(self.image), masks, names, show, border_width, show_legends)
