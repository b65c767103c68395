"""Samples of tensors' values, by which writes are seen that PyTorch does not count: ``.data``, NumPy, others'."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

WHOLE = 512
"""Elements of a tensor that are all read."""
SAMPLES = 64
"""Elements that are read of a larger one, about, at equal distances in memory."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Fingerprint:
    """Samples of tensors as they were.

    Whoever makes it keeps the tensors, and asks only while they are where they were.

    Of a tensor of at most :data:`WHOLE` elements all are read, of a larger one :data:`SAMPLES`: what writes to a share
    s of its elements anywhere is missed with a probability of about (1 - s)^64.

    Args:
        tensors: of any kind; those without plain memory are left out.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._near: dict[int, list[Any]] = {}
        self._far: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in tensors:
            self._add(tensor)
        self._was = self._read()

    def changed(self) -> bool:
        """Whether a sample differs, to the bit."""
        return any(
            not (np.array_equal(now, was) if isinstance(now, np.ndarray) else torch.equal(now, was))
            for now, was in zip(self._read(), self._was, strict=True)
        )

    def _add(self, tensor: Tensor) -> None:
        place = _place(tensor)
        if place is None:
            return
        plain, count, step = place
        if plain.device.type == "cpu":
            # Raw memory: a NumPy view of a tensor would forbid its owner to resize it.
            width = plain.element_size()
            reach = width * ((count - 1) * step + 1)
            memory: Any = (ctypes.c_char * reach).from_address(plain.data_ptr())
            kind = np.dtype(f"u{width}")
            self._near.setdefault(width, []).append(np.ndarray((count,), kind, memory, 0, (step * width,)))
            return
        whole = torch.as_strided(plain, (count,), (step,), plain.storage_offset())
        self._far.setdefault((plain.device, plain.dtype), []).append(whole)

    def _read(self) -> list[Any]:
        near = [np.concatenate(views) for views in self._near.values()]
        return near + [torch.cat(views) for views in self._far.values()]


def _place(tensor: Tensor) -> tuple[Tensor, int, int] | None:
    """(the tensor as integers, how many elements to read, how far they are apart), from its first in memory."""
    plain = tensor.detach()
    if plain.layout is not torch.strided or plain.is_quantized or plain.numel() == 0 or plain.is_meta:
        return None
    if type(plain) is not Tensor or plain.element_size() not in _INTEGERS or plain.is_conj() or plain.is_neg():
        return None
    if plain.dtype.is_complex:
        plain = torch.view_as_real(plain)
    plain = plain.view(_INTEGERS[plain.element_size()])
    extent = 1 + sum((size - 1) * stride for size, stride in zip(plain.shape, plain.stride(), strict=True))
    if extent != plain.numel():  # a part of another's memory: one line of it
        sizes = list(plain.shape)
        longest = max(range(plain.dim()), key=sizes.__getitem__)
        step = max(1, sizes[longest] // SAMPLES)
        return plain, -(-sizes[longest] // step), step * plain.stride(longest)
    if extent <= WHOLE:
        return plain, extent, 1
    step = extent // SAMPLES
    row = max(plain.stride())
    if row < step:  # samples in different columns of their rows, by the golden ratio
        rows = step // row
        step = (rows - 1 if rows > 1 else 1) * row + round(0.618 * row)
    else:
        step += 1 - step % 2
    return plain, 1 + (extent - 1) // step, step
