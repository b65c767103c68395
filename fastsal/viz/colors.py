"""Two perceptually uniform colour maps, made by formula in Oklab.

Oklab: B. Ottosson, "A perceptual color space for image processing" (2020). In it, the distance of two colours is about
the difference that is seen, so a map is uniform when its 256 steps have one length there.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

LEVELS = 256
_FINE = 4096  # samples of a path before it is cut into steps of equal length

# Oklab to the cube roots of cone responses, and those responses to linear sRGB.
_TO_CONES = torch.tensor(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ],
    dtype=torch.float64,
)
_TO_LINEAR = torch.tensor(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ],
    dtype=torch.float64,
)


def oklab_to_srgb(lab: Tensor) -> Tensor:
    """Oklab colours [..., 3] -> sRGB [..., 3], in [0, 1] for the colours that sRGB has."""
    linear = (lab.double() @ _TO_CONES.T) ** 3 @ _TO_LINEAR.T
    curved = 1.055 * linear.clamp(min=0) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curved)


def srgb_to_oklab(srgb: Tensor) -> Tensor:
    """sRGB colours [..., 3] in [0, 1] -> Oklab [..., 3] (lightness, green-red, blue-yellow)."""
    values = srgb.double()
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = linear @ torch.linalg.inv(_TO_LINEAR).T
    lab: Tensor = cones.clamp(min=0) ** (1 / 3) @ torch.linalg.inv(_TO_CONES).T
    return lab


def sequential_path() -> Tensor:
    """Oklab colours [256, 3]: dark indigo over magenta and orange to light yellow.

    Lightness rises linearly from 0.20 to 0.95, and the hue goes round by half a circle at a speed that makes equal
    steps in the chroma plane too: the 255 steps are equally long.
    """
    position = torch.linspace(0, 1, _FINE, dtype=torch.float64)
    hue = torch.deg2rad(285 + 180 * position)
    # As colourful as sRGB allows at both ends, where very dark and very light colours are pale, and more between them.
    chroma = 0.105 + 0.06 * torch.sin(math.pi * position)
    plane = torch.stack([chroma * hue.cos(), chroma * hue.sin()], dim=1)
    length = torch.cat([torch.zeros(1, dtype=torch.float64), plane.diff(dim=0).norm(dim=1).cumsum(0)])
    at = torch.searchsorted(length, torch.linspace(0, float(length[-1]), LEVELS, dtype=torch.float64))
    lightness = torch.linspace(0.20, 0.95, LEVELS, dtype=torch.float64)
    return torch.cat([lightness[:, None], plane[at.clamp(max=_FINE - 1)]], dim=1)


def diverging_path() -> Tensor:
    """Oklab colours [256, 3]: blue, light grey at the middle, orange-red; two straight lines of one length."""
    side = torch.linspace(1, 0, LEVELS // 2 + 1, dtype=torch.float64)[:-1]

    def arm(hue: float) -> Tensor:
        angle, chroma = math.radians(hue), 0.15 * side
        return torch.stack([0.96 - 0.46 * side, chroma * math.cos(angle), chroma * math.sin(angle)], dim=1)

    return torch.cat([arm(255), arm(35).flip(0)])


@functools.cache
def _table(name: str) -> Tensor:
    path = sequential_path() if name == "sequential" else diverging_path()
    return (oklab_to_srgb(path).clamp(0, 1) * 255).round().to(torch.uint8)


def colormap() -> Tensor:
    """Colours for maps from 0 to 1: uint8 [256, 3], sRGB; from dark indigo to light yellow, also readable in grey.

    Lightness is linear and the steps are equally long in Oklab, but for the rounding to 8 bits.
    """
    return _table("sequential").clone()


def diverging_colormap() -> Tensor:
    """Colours for signed maps in 0 to 1 around 0.5: uint8 [256, 3], sRGB; blue below, red above, light grey at 0.5."""
    return _table("diverging").clone()
