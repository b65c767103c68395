"""From an attribution to a map from 0 to 1 that can be coloured."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Sign = Literal["range", "positive", "absolute", "diverging"]


def plane(attribution: Tensor) -> Tensor:
    """The sum over channels, sign kept: [..., C, H, W] -> [..., H, W], float32.

    A pixel's share of the output is the sum of its channels' shares; where the attributions are absolute values
    already, as in saliency maps, the sum is the L1 norm of the pixel's gradient.

    Raises ValueError for fewer than three dimensions.
    """
    if attribution.dim() < 3:
        raise ValueError(f"attribution must be [..., C, H, W], got shape {tuple(attribution.shape)}")
    return attribution.detach().float().sum(dim=-3)


def to_unit(maps: Tensor, *, sign: Sign = "range", percentile: float = 100.0) -> Tensor:
    """Maps [..., H, W] -> the same shape, float32 in [0, 1], each map scaled by its own values.

    Args:
        maps: floating point, [..., H, W].
        sign: what becomes of negative values: ``range``, (x - min) / (max - min), for maps whose values only matter in
            comparison (Grad-CAM, RISE); ``positive``, max(x, 0) / top, what speaks for the target; ``absolute``,
            |x| / top, what matters to the target either way; ``diverging``, 0.5 + x / (2 top), for
            :func:`fastsal.viz.diverging_colormap`, where 0.5 is zero.
        percentile: in (0, 100], sets ``top`` (and ``max``) to that percentile of the values, and clips what is above:
            gradients have a few values far out that would leave the rest of the map dark.

    A constant map gives 0 (0.5 for ``diverging``). The extremes ignore NaN, and a NaN stays a NaN.

    Raises:
        ValueError: for another sign, a percentile out of range, or fewer than two dimensions.
    """
    if sign not in get_args(Sign):
        raise ValueError(f"sign must be one of {', '.join(get_args(Sign))}, got {sign!r}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0 and at most 100, got {percentile}")
    if maps.dim() < 2:
        raise ValueError(f"maps must be [..., H, W], got shape {tuple(maps.shape)}")
    values = maps.detach().float()
    if sign == "positive":
        values = values.clamp(min=0)
    elif sign == "absolute":
        values = values.abs()
    flat = values.flatten(-2)
    if sign == "range":
        low = flat.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).amin(-1)[..., None, None]
        return _divide(values - low, _quantile(flat, percentile) - low)
    top = _quantile(flat.abs(), percentile)
    if sign == "diverging":
        scaled = _divide(values, top, low=-1)
        return 0.5 + scaled / 2
    return _divide(values, top)


def _quantile(flat: Tensor, percentile: float) -> Tensor:
    """The percentile of flat [..., N] without its NaN, as [..., 1, 1]; the nearest value below, of any size."""
    count = (~flat.isnan()).sum(-1, keepdim=True)
    index = ((count - 1).clamp(min=0) * (percentile / 100)).long()
    return flat.sort(dim=-1).values.gather(-1, index)[..., None]


def _divide(values: Tensor, top: Tensor, low: float = 0.0) -> Tensor:
    """values / top within [low, 1], 0 where top is 0; NaN stays."""
    zero = top <= 0
    scaled = (values / top.masked_fill(zero, 1)).clamp(low, 1)
    return torch.where(zero & ~values.isnan(), torch.zeros_like(scaled), scaled)
