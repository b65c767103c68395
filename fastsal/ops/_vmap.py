"""Building blocks of the ops' vmap rules: the mapped dimension becomes part of one that the op already has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def to_front(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The tensor with the mapped dimension first, repeated by view where it is not mapped."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def into_batch(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """[B, ...] per element becomes [V * B, ...]."""
    front = to_front(tensor, dim, size)
    return None if front is None else front.flatten(0, 1)


def into_columns(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """[N, K, ...] per element becomes [N, V * K, ...]."""
    front = to_front(tensor, dim, size)
    return None if front is None else front.movedim(0, 1).flatten(1, 2)


def rows_out(result: Tensor, count: int, size: int) -> tuple[Tensor, int]:
    """Undo :func:`into_batch` for a result with ``count`` rows per batch element, step-major."""
    return result.unflatten(0, (count, size, result.shape[0] // max(count * size, 1))).movedim(1, 0).flatten(1, 2), 0


def one_by_one(op: Callable[..., Tensor], info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]) -> Any:
    """The rule of last resort: a call per element."""
    results = []
    for index in range(info.batch_size):
        results.append(
            op(
                *[
                    arg.select(dim, index) if isinstance(arg, Tensor) and dim is not None else arg
                    for arg, dim in zip(args, in_dims, strict=True)
                ]
            )
        )
    return torch.stack(results), 0
