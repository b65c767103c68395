"""What is raised where a batch does not fit."""

from __future__ import annotations

import re

import torch

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)
"""What allocators say that raise no class of their own: the CPU's (by system), MPS, cuBLAS and cuDNN."""


class ChunkTooLarge(RuntimeError):
    """Raised inside a step that can only run with fewer items: the chunk is halved and done again."""


def is_too_large(error: BaseException) -> bool:
    """Whether a step failed for want of memory, or asked for fewer items."""
    return isinstance(error, (ChunkTooLarge, torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )
