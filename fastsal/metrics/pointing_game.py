"""The pointing game: does a map have its maximum on the object?

Zhang, Bargal, Lin, Brandt, Shen, Sclaroff, "Top-down Neural Attention by Excitation Backprop" (IJCV 2018), section 4.1.
"""

from __future__ import annotations

from torch import Tensor


def pointing_hits(maps: Tensor, masks: Tensor, *, tolerance: int = 0) -> Tensor:
    """Whether each map's maximum lies in its mask.

    Args:
        maps: [B, *spatial], or [B, C, *spatial], whose channels are summed. Pass the absolute value of signed maps
            where the sign is not to count. Of equal maxima the first in row-major order counts.
        masks: [B, *spatial], true (or not zero) on the target.
        tolerance: pixels that the maximum may lie beside the mask, in each dimension; the paper allows 15.

    Returns:
        [B], bool. A map that holds a NaN is a miss.

    Raises:
        ValueError: for shapes that do not fit, or a negative tolerance.
    """
    if maps.dim() == masks.dim() + 1 and masks.dim() >= 2:
        maps = maps.sum(1)
    if maps.dim() < 2 or maps.shape != masks.shape or maps.numel() == 0:
        raise ValueError(
            f"maps, masks: shapes {tuple(maps.shape)} and {tuple(masks.shape)} are not [B, *spatial] (maps may have "
            "channels) of the same size"
        )
    if tolerance < 0:
        raise ValueError(f"tolerance: {tolerance} is below 0")
    flat = maps.flatten(1)
    inside = masks.to(maps.device) != 0
    place = flat.argmax(1)
    hits = inside.new_zeros(len(maps))
    for example in range(len(maps)):
        region, rest = inside[example], int(place[example])
        for axis in range(region.dim() - 1, -1, -1):
            rest, position = divmod(rest, region.shape[axis])
            low, high = max(0, position - tolerance), min(region.shape[axis], position + tolerance + 1)
            region = region.narrow(axis, low, high - low)
        hits[example] = region.any()
    return hits & ~flat.isnan().any(1)


def pointing_game(maps: Tensor, masks: Tensor, *, tolerance: int = 0) -> float:
    """Share of the maps whose maximum lies in the target's mask; arguments as of :func:`pointing_hits`."""
    return float(pointing_hits(maps, masks, tolerance=tolerance).double().mean())
