"""Deletion's and insertion's batch, straight from a ranking. Meaning: :mod:`fastsal.reference.ranks`.

Bytes: ``batch`` writes len(counts) * numel(input) elements, and reads input, other and the ranks once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.ops._define import Op
from fastsal.ops._vmap import one_by_one
from fastsal.reference import ranks as reference
from fastsal.reference._numerics import memory_format


def _empty(input: Tensor, other: Tensor, ranks: Tensor, counts: Tensor) -> Tensor:
    shape = (counts.shape[0] * input.shape[0], *input.shape[1:])
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))


def _vmap(info: Any, dims: tuple[Any, ...], *args: Any) -> Any:
    return one_by_one(_batch.overload, info, dims, args)


_batch = Op(
    "ranks_batch(Tensor input, Tensor other, Tensor ranks, Tensor counts) -> Tensor",
    reference=reference.batch,
    kernel="ranks.batch",
    empty=_empty,
    vmap=_vmap,
)


def batch(input: Tensor, other: Tensor, ranks: Tensor, counts: Tensor) -> Tensor:
    """Copies of input in which the elements of the lowest ranks are another's.

    Args:
        input: [B, C, *shape], any dtype.
        other: what is put in, of the input's shape and dtype.
        ranks: [B, *shape], int64: place of each element in the order of importance, from 0; all channels together.
        counts: [n], int64: how many elements are exchanged, on the input's device.

    Returns:
        [n * B, C, *shape] in the input's dtype and memory format, row k * B + b.

    Raises:
        ValueError: for arguments outside of the above.
    """
    if input.dim() < 2:
        raise ValueError(f"input: shape {tuple(input.shape)} is not [B, C, ...]")
    if other.shape != input.shape or other.dtype != input.dtype:
        given = f"{other.dtype} of shape {tuple(other.shape)}"
        raise ValueError(f"other: {given} is not {input.dtype} of shape {tuple(input.shape)}, as input is")
    shape = (input.shape[0], *input.shape[2:])
    if tuple(ranks.shape) != shape or ranks.dtype != torch.int64:
        raise ValueError(f"ranks: {ranks.dtype} of shape {tuple(ranks.shape)} is not int64 of shape {shape}")
    if counts.dim() != 1 or counts.shape[0] < 1 or counts.dtype != torch.int64:
        raise ValueError(f"counts: {counts.dtype} of shape {tuple(counts.shape)} is not int64 of shape [n], n >= 1")
    for name, tensor in (("other", other), ("ranks", ranks), ("counts", counts)):
        if tensor.device != input.device:
            raise ValueError(f"{name}: it is on {tensor.device}, the input on {input.device}")
    return _batch(input, other, ranks, counts)
