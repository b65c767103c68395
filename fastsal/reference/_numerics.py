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


def philox4x64(seed: int, element: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x64-10 of the same paper at the counters (element, group, 0, 0), with the key (seed, 0).

    Args:
        seed: 64-bit, signed or not.
        element: int64 tensor.
        group: below 2**63.

    Returns:
        Four int64 tensors holding the bits of unsigned 64-bit words.
    """
    zero = torch.zeros_like(element)
    counter = [element, zero + group, zero, zero]
    key = [seed & 0xFFFFFFFFFFFFFFFF, 0]
    for _ in range(10):
        high0, low0 = _wide_product(counter[0], 0xD2E7470EE14C6C93)
        high2, low2 = _wide_product(counter[2], 0xCA5A826395121157)
        counter = [high2 ^ counter[1] ^ _signed(key[0]), low2, high0 ^ counter[3] ^ _signed(key[1]), low0]
        key = [(key[0] + 0x9E3779B97F4A7C15) % 2**64, (key[1] + 0xBB67AE8584CAA73B) % 2**64]
    return counter[0], counter[1], counter[2], counter[3]


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _wide_product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """(high, low) words of an unsigned 64 x 64 bit product, from products of halves."""
    factor_low, factor_high = factor & WORD, factor >> 32
    low, high = x & WORD, (x >> 32) & WORD
    first, second, third = low * factor_low, high * factor_low, low * factor_high
    carry = ((first >> 32) & WORD) + (second & WORD) + (third & WORD)
    upper = high * factor_high + ((second >> 32) & WORD) + ((third >> 32) & WORD) + (carry >> 32)
    return upper, x * _signed(factor)


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
