"""Whether a GPU multiplies float32 with TF32's 10 bits, as the process has it set."""

from __future__ import annotations

from typing import Any

import torch

TF32 = 2.0**-10
"""The rounding of float32 where a GPU multiplies in TF32, which may hold for one batch size and not for another."""


def tf32_is_on() -> bool:
    """Whether convolutions or matrix products of float32 may be taken in TF32.

    The settings for each kind of operation are asked where there are any: PyTorch refuses to read the older flags of a
    process that has set these.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        return bool(cudnn.allow_tf32 or matmul.allow_tf32)
    return "tf32" in (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision)
