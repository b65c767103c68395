"""Batches in which the most important elements are exchanged: removed from an input, or revealed in another.

Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (BMVC 2018), section 4.2
(deletion and insertion).

NaN: a copy; every element comes from one of the two inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.reference._numerics import memory_format


def batch(input: Tensor, other: Tensor, ranks: Tensor, counts: Tensor) -> Tensor:
    """Row k * B + b: the elements of other[b] whose rank is below counts[k], those of input[b] elsewhere."""
    exchanged = ranks[:, None] < counts.view(-1, *[1] * (ranks.dim() + 1))
    result = torch.where(exchanged, other, input).flatten(0, 1)
    return result.contiguous(memory_format=memory_format(input))
