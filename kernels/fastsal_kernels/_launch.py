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
_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...], Any]] = {}
"""By all that Triton specialises on: what it compiled, its trailing constants, and the kernel, which keeps its id."""


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
    """Launch ``kernel`` on ``grid`` with its runtime arguments in order and its constexprs by name.

    What was compiled for a launch is remembered here: Triton's own way to it binds, specialises and hashes every
    argument again, which takes longer than most of these kernels run.
    """
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, args, constexprs, num_warps))
        return
    if INTERPRETED or kernel.pre_run_hooks:
        kernel[grid](*args, **constexprs, num_warps=num_warps)
        return
    key = (
        id(kernel),
        triton.runtime.driver.active.get_current_device(),
        num_warps,
        *constexprs,
        *constexprs.values(),
        *map(_class_of, args),
    )
    found = _compiled.get(key)
    if found is None:
        compiled = kernel[grid](*args, **constexprs, num_warps=num_warps)
        if compiled is not None:
            _compiled[key] = compiled, _trailing(kernel, len(args), constexprs), kernel
        return
    found[0][grid if len(grid) == 3 else (*grid, *(1,) * (3 - len(grid)))](*args, *found[1])


def _class_of(value: Any) -> Any:
    """What Triton compiles another kernel for: types, whether pointers and integers divide by 16, 1, 64-bit sizes."""
    kind = type(value)
    if kind is int:
        return value == 1, value & 15 == 0, -(2**31) <= value < 2**31, value < 2**63
    if kind is float:
        return float
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % 16 == 0
    return kind, value


def _trailing(kernel: Any, given: int, constexprs: dict[str, Any]) -> tuple[Any, ...]:
    """The values after the runtime arguments, in the order of the kernel's signature."""
    parameters = list(kernel.signature.parameters.values())[given:]
    return tuple(constexprs.get(each.name, each.default) for each in parameters)


def cdiv(count: int, block: int) -> int:
    """Blocks that cover a count: what ``triton.cdiv`` takes a hundred times as long for outside of kernels."""
    return -(-count // block)


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
    return max(usual, cdiv(count, GRID_LIMIT))


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
