"""From a picture to a model's input: resize, crop, normalise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST = 8192 * 8192
"""Pixels of a model's input that a command may ask for."""


@dataclass(frozen=True)
class Preprocess:
    """What a model wants done to a picture before it.

    size: height and width of the model's input.
    mean, std: of each channel, on values from 0 to 1: the input is (x - mean) / std.
    crop: share of the resized picture that the centre crop keeps; 1 keeps all of its shorter side.
    interpolation: Pillow's name of the filter, in lower case.
    squash: scale to `size` without keeping proportions, and crop nothing.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float = 0.875
    interpolation: str = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be two positive numbers, height and width, got {self.size}")
        if self.size[0] * self.size[1] > LARGEST:
            raise ValueError(f"size must be at most {LARGEST:,} pixels, got {self.size[0]} x {self.size[1]}")
        if len(self.mean) not in (1, 3) or len(self.std) not in (1, 3):
            raise ValueError(f"mean and std must have one or three numbers, got {self.mean} and {self.std}")
        if not min(self.std) > 0 or not all(map(math.isfinite, (*self.std, *self.mean))):
            raise ValueError(f"std must be positive, mean and std finite, got {self.mean} and {self.std}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be above 0 and at most 1, got {self.crop}")
        if self.interpolation.upper() not in Image.Resampling.__members__:
            names = ", ".join(name.lower() for name in Image.Resampling.__members__)
            raise ValueError(f"interpolation must be one of {names}, got {self.interpolation!r}")

    def picture(self, image: Image.Image) -> Image.Image:
        """The part of the RGB image that the model will see, at the model's input size."""
        height, width = self.size
        method = Image.Resampling[self.interpolation.upper()]
        if self.squash:
            return image.resize((width, height), method)
        # The source rectangle of the crop: resizing it alone is the same as resizing all and cropping after.
        scale = self.crop * min(image.width / width, image.height / height)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        # By rounding alone it may reach out of the image, which Pillow refuses.
        box = (
            max(0.0, left),
            max(0.0, top),
            min(float(image.width), left + scale * width),
            min(float(image.height), top + scale * height),
        )
        return image.resize((width, height), method, box)

    def tensor(self, picture: Image.Image) -> Tensor:
        """A picture of the right size, normalised: float32 [3, height, width]."""
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous()

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image -> float32 [3, height, width], the model's input."""
        return self.tensor(self.picture(image))
