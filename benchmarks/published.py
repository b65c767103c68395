"""RISE as its authors describe it, in plain PyTorch: what a reader of the paper would write."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rise(model: nn.Module, x: Tensor, count: int, cells: int, probability: float, batch: int) -> Tensor:
    """Maps [K, H, W] of all K outputs of an image [1, C, H, W].

    Petsiuk, Das, Saenko (2018), section 3.2 and equation 6: random grids, enlarged bilinearly by more than the image,
    cropped at random, all made beforehand; the scores' product with the masks.
    """
    side = x.shape[-1]
    cell = math.ceil(side / cells)
    grids = (torch.rand(count, 1, cells, cells, device=x.device) < probability).float()
    masks = torch.empty(count, 1, side, side, device=x.device)
    for index in range(count):
        large = F.interpolate(grids[index : index + 1], size=(cells + 1) * cell, mode="bilinear")[0]
        top, left = (int(torch.randint(cell, ())) for _ in range(2))
        masks[index] = large[:, top : top + side, left : left + side]
    scores = []
    with torch.no_grad():
        for start in range(0, count, batch):
            scores.append(model(masks[start : start + batch] * x))
    weighted = torch.cat(scores).T @ masks.flatten(1)
    return weighted.view(-1, side, side) / (count * probability)
