"""Arithmetic that several references share: Philox random words, linear interpolation, accumulation type."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def philox(seed: int, counter: Sequence[Tensor], rounds: int = 10) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

    Args:
        seed: 64-bit key; its low word is the first key word.
        counter: four int64 tensors of one shape, each element in [0, 2**32).
        rounds: number of rounds.

    Returns:
        Four int64 tensors holding unsigned 32-bit words.
    """
    c0, c1, c2, c3 = (words.clone() for words in counter)
    first, second = torch.empty_like(c0), torch.empty_like(c0)
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(rounds):
        # int64 wraps around, which leaves the 64 bits of a 32 x 32 bit product as they are.
        torch.mul(c0, 0xD2511F53, out=first)
        torch.mul(c2, 0xCD9E8D57, out=second)
        torch.bitwise_right_shift(second, 32, out=c0).bitwise_and_(WORD).bitwise_xor_(c1).bitwise_xor_(k0)
        torch.bitwise_right_shift(first, 32, out=c2).bitwise_and_(WORD).bitwise_xor_(c3).bitwise_xor_(k1)
        torch.bitwise_and(second, WORD, out=c1)
        torch.bitwise_and(first, WORD, out=c3)
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it; Apple's does not."""
    return torch.float32 if device.type == "mps" else torch.float64


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The dense format that an op's result takes from its input: channels_last where the input has it."""
    if not tensor.is_contiguous():
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
    return torch.contiguous_format


def interpolate_linear(source: Tensor, dim: int, size: int) -> Tensor:
    """Linear resize along one dimension with half-pixel centres and clamped ends (``align_corners=False``)."""
    length = source.shape[dim]
    if length == size:
        return source
    positions = torch.arange(size, dtype=wide_dtype(source.device), device=source.device)
    positions = ((positions + 0.5) * (length / size) - 0.5).clamp(0, length - 1)
    low = positions.floor()
    fraction = (positions - low).to(source.dtype)
    low_index = low.to(torch.int64)
    high_index = (low_index + 1).clamp(max=length - 1)
    first = source.index_select(dim, low_index)
    shape = [1] * source.dim()
    shape[dim] = size
    return first + fraction.view(shape) * (source.index_select(dim, high_index) - first)
