"""The one place that launches a kernel, so that the gate can read the signatures of real launches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _probe(out):
    tl.store(out, 0)


INTERPRETED = not isinstance(_probe, triton.runtime.jit.JITFunction)
"""Whether this process imported Triton with TRITON_INTERPRET=1."""

GRID_LIMIT = 65535
"""Largest second and third dimension of a launch grid."""


class Launch(NamedTuple):
    """One recorded launch."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constexprs: dict[str, Any]
    num_warps: int


_recorded: list[Launch] | None = None


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect launches instead of running them, inside a ``with`` block."""
    global _recorded
    _recorded = []
    try:
        yield _recorded
    finally:
        _recorded = None


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int = 4, **constexprs: Any) -> None:
    """Launch ``kernel`` on ``grid`` with its runtime arguments in order and its constexprs by name."""
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, args, constexprs, num_warps))
        return
    kernel[grid](*args, **constexprs, num_warps=num_warps)


def vector_width(*lengths: int) -> int:
    """Largest power of two up to 16 that divides every length.

    A length is passed divided by it and multiplied again in the kernel: so the compiler knows the divisibility
    that wide loads and stores need, whatever the argument's own specialisation says.
    """
    divisor = math.gcd(*lengths)
    return min(divisor & -divisor, 16)


def block_size(length: int, most: int) -> int:
    """Power of two that covers ``length``, at most ``most``."""
    return min(1 << (max(length, 1) - 1).bit_length(), most)


def per_program(count: int, usual: int) -> int:
    """Items that one program takes, ``usual`` unless the grid dimension would pass its limit."""
    return max(usual, -(-count // GRID_LIMIT))


class Planes(NamedTuple):
    """A batch as rows of ``length`` contiguous elements; ``interleaved`` channels share a row (channels_last)."""

    channels: int
    depth: int
    height: int
    length: int
    interleaved: int


def planes_of(out: Tensor) -> Planes:
    """Row structure of a dense [B, *shape] result with one to four dimensions beside the batch."""
    shape = list(out.shape[1:])
    if len(shape) == 1:
        channels, depth, height, width = 1, 1, 1, shape[0]
    else:
        channels, (depth, height, width) = shape[0], [1] * (4 - len(shape)) + shape[1:]
    if out.is_contiguous():
        return Planes(channels, depth, height, width, 1)
    return Planes(channels, depth, height, width * channels, channels)


def dense_like(tensor: Tensor, out: Tensor) -> Tensor:
    """The tensor in the dense memory order of ``out``."""
    if out.is_contiguous():
        return tensor.contiguous()
    return tensor.contiguous(memory_format=torch.channels_last if out.dim() == 4 else torch.channels_last_3d)
