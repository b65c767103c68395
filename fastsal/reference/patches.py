"""Patches cut from a cached map with altered parts of it pasted in: what incremental inference runs a layer on.

Nakandala, Kumar, Papakonstantinou, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations" (SIGMOD 2019), section 3.

NaN: a copy; every element comes from one place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather(
    cached: Tensor, starts: Tensor, size: Sequence[int], patch: Tensor | None, origins: Tensor | None, fill: float
) -> Tensor:
    """Region b of the map, [B, C, *size] from starts[b]: patch b where it lies, the map elsewhere, fill outside of it.

    One row of channels is what moves, so a result is channels-last.
    """
    _, channels, height, width = cached.shape
    count, (rows, columns) = starts.shape[0], size
    y = starts[:, 0, None] + torch.arange(rows, device=starts.device)
    x = starts[:, 1, None] + torch.arange(columns, device=starts.device)
    index = y[:, :, None] * width + x[:, None, :]
    outside = ((y < 0) | (y >= height))[:, :, None] | ((x < 0) | (x >= width))[:, None, :]
    index = torch.where(outside, height * width, index)
    table = [cached.permute(0, 2, 3, 1).reshape(-1, channels), cached.new_full((1, channels), fill)]
    if patch is not None:
        assert origins is not None
        tall, wide = patch.shape[2:]
        down, right = y - origins[:, 0, None], x - origins[:, 1, None]
        inside = ((down >= 0) & (down < tall))[:, :, None] & ((right >= 0) & (right < wide))[:, None, :]
        own = (torch.arange(count, device=starts.device)[:, None] * tall + down)[:, :, None] * wide + right[:, None, :]
        index = torch.where(inside & ~outside, own + height * width + 1, index)
        table.append(patch.permute(0, 2, 3, 1).reshape(-1, channels))
    found = torch.cat(table).index_select(0, index.reshape(-1))
    return found.view(count, rows, columns, channels).permute(0, 3, 1, 2)
