"""The blur that insertion begins with, as in the code of RISE's authors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WIDTH, SIGMA, RADIUS = 11, 5.0, 20


def blurred(inputs: Tensor) -> Tensor:
    """Inputs [B, C, *shape] blurred along each dimension of shape, with zeros outside.

    The authors' kernel is what a Gaussian filter of sigma 5 (cut at 4 sigma, borders reflected) makes of 11 elements
    with a one in the middle: nearly a box.
    """
    kernel = _kernel().to(inputs)
    for dimension in range(2, inputs.dim()):
        rows = inputs.movedim(dimension, -1)
        padded = torch.nn.functional.pad(rows, (WIDTH // 2, WIDTH // 2))
        inputs = (padded.unfold(-1, WIDTH, 1) @ kernel).movedim(-1, dimension)
    return inputs.contiguous()


def _kernel() -> Tensor:
    weights = [math.exp(-0.5 * (offset / SIGMA) ** 2) for offset in range(-RADIUS, RADIUS + 1)]
    total = sum(weights)
    middle, period = WIDTH // 2, 2 * WIDTH
    ones = {middle, period - 1 - middle}  # reflected with the edge repeated, the middle comes again
    return torch.tensor(
        [
            sum(weights[offset + RADIUS] for offset in range(-RADIUS, RADIUS + 1) if (at + offset) % period in ones)
            / total
            for at in range(WIDTH)
        ],
        dtype=torch.float64,
        device="cpu",
    )
