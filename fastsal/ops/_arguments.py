"""Checks of arguments that several ops share; each error names the argument, what was given and what would work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

INTS = (int, torch.SymInt)


def per_dimension(name: str, value: int | Sequence[int], dimensions: int) -> list[int]:
    """One positive int per dimension, from one int or a sequence.

    Raises:
        TypeError: for a value that is no int or sequence of ints.
        ValueError: for a wrong number of entries or an entry below 1.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        result = [value] * dimensions
    else:
        if not isinstance(value, (tuple, list)) and (isinstance(value, str) or not isinstance(value, Sequence)):
            raise TypeError(f"{name}: {value!r} is neither an int nor a sequence of ints")
        result = list(value)
        for entry in result:
            if not isinstance(entry, int):
                raise TypeError(f"{name}: {value!r} is neither an int nor a sequence of ints")
        if len(result) != dimensions:
            raise ValueError(f"{name}: {tuple(value)} has {len(result)} entries, {dimensions} are needed")
    if result and min(result) < 1:
        raise ValueError(f"{name}: {value} has an entry below 1")
    return result


def sizes_of(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """A shape as a tuple of ints, symbolic ones of a traced tensor included.

    Raises:
        TypeError: for what is not a sequence of ints.
    """
    sizes = tuple(value)
    for size in sizes:
        if not isinstance(size, INTS):
            raise TypeError(f"{name}: {sizes} is not a sequence of ints")
    return sizes


def spatial(name: str, tensor: Tensor) -> list[int]:
    """Spatial sizes of a [B, C, *spatial] tensor with one to three spatial dimensions.

    Raises:
        ValueError: for another number of dimensions.
    """
    if not 3 <= tensor.dim() <= 5:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)} is not [B, C, *spatial] with 1 to 3 spatial dimensions")
    return list(tensor.shape)[2:]


def index_range(start: int, stop: int, limit: int | None = None) -> None:
    """Check a range of mask or window indices.

    Raises:
        ValueError: for a negative or decreasing range, or one past ``limit``.
    """
    if start < 0 or stop < start or (limit is not None and stop > limit):
        end = "" if limit is None else f" <= {limit}"
        raise ValueError(f"start, stop: {start}, {stop} do not satisfy 0 <= start <= stop{end}")


def split_baseline(input: Tensor, baseline: float | Tensor) -> tuple[Tensor | None, float]:
    """A baseline as (tensor expanded to the input's shape in its dtype, 0.0) or (None, number).

    Raises:
        TypeError: for a baseline that is no number or tensor.
        ValueError: for a tensor on another device or one that does not broadcast to the input.
    """
    if isinstance(baseline, Tensor):
        if baseline.device != input.device and baseline.dim() > 0:
            raise ValueError(f"baseline: it is on {baseline.device}, the input on {input.device}")
        try:
            return baseline.to(device=input.device, dtype=input.dtype).expand_as(input), 0.0
        except RuntimeError:
            shapes = f"{tuple(baseline.shape)} does not broadcast to the input's {tuple(input.shape)}"
            raise ValueError(f"baseline: shape {shapes}") from None
    if isinstance(baseline, int) and not (input.is_floating_point() or input.is_complex()):
        return torch.full((), baseline, dtype=input.dtype, device=input.device).expand_as(input), 0.0
    if isinstance(baseline, (int, float)):
        return None, float(baseline)
    raise TypeError(f"baseline: {type(baseline).__name__} is neither a number nor a tensor")
