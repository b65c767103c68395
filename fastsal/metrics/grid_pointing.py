"""The grid pointing game: of a grid of images, how much of a class's map lies on the image of that class?

Böhle, Fritz, Schiele, "Convolutional Dynamic Alignment Networks for Interpretable Classifications" (CVPR 2021),
section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grid_of_images(images: Tensor, rows: int) -> Tensor:
    """Images [G * rows * columns, C, H, W] as G grids [G, C, rows * H, columns * W], filled row by row.

    Raises:
        ValueError: for images that do not fill square grids.
    """
    count = images.shape[0] // (rows * rows) if rows > 0 else 0
    if images.dim() != 4 or rows < 1 or count < 1 or count * rows * rows != images.shape[0]:
        raise ValueError(f"images: shape {tuple(images.shape)} is not [G * {rows} * {rows}, C, H, W]")
    _, channels, height, width = images.shape
    cells = images.view(count, rows, rows, channels, height, width)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, rows * height, rows * width)


def grid_pointing(maps: Tensor, cells: Tensor, rows: int) -> Tensor:
    """The share of a map's positive values that lies in one cell of the grid, [B], in [0, 1].

    A map of no positive value counts as 0. Chance is 1 / rows².

    Args:
        maps: [B, H, W], or [B, C, H, W], whose channels are summed.
        cells: [B], int64: the cell of the explained class, row by row.
        rows: cells per side.

    Raises:
        ValueError: for shapes that do not fit, or a cell that is not in the grid.
    """
    maps = maps.sum(1) if maps.dim() == 4 else maps
    if maps.dim() != 3 or rows < 1 or maps.shape[1] % rows or maps.shape[2] % rows:
        raise ValueError(f"maps: shape {tuple(maps.shape)} is not [B, H, W] with sides that {rows} divides")
    if tuple(cells.shape) != (len(maps),) or cells.is_floating_point():
        raise ValueError(f"cells: {cells.dtype} of shape {tuple(cells.shape)} is not int64 of shape [{len(maps)}]")
    if len(cells) and not (int(cells.min()) >= 0 and int(cells.max()) < rows * rows):
        raise ValueError(f"cells: {cells.tolist()} are not all in a grid of {rows * rows}")
    positive = maps.clamp(min=0).to(torch.float64)
    per_cell = positive.unflatten(1, (rows, -1)).unflatten(3, (rows, -1)).sum((2, 4)).flatten(1)
    total = per_cell.sum(1)
    share = per_cell.gather(1, cells.to(maps.device)[:, None])[:, 0] / total
    return torch.where(total > 0, share, torch.zeros_like(share))
