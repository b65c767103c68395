"""Stage 7: the kernels whose blocks are least certain, with every other block: what ``fastsal tune`` would keep."""

from __future__ import annotations

from fastsal import ops
from tools.gpu_check.rows import Rows
from tools.gpu_check.stage import Limit

KERNELS = ("path.fold", "noise.fold", "masks.batch", "windows.batch")
SHAPE = (1, 3, 224, 224)
RESERVE = 20.0
"""Seconds that one kernel may take."""


def run(rows: Rows, limit: Limit, rehearse: bool) -> None:
    """Writes a row for each kernel: its fastest blocks, and how much faster than the shipped ones they are.

    Raises:
        RuntimeError: where the limit left some out.
    """
    if rehearse:  # on a CPU a kernel's time says nothing, and its interpreter takes minutes
        rows.add("blocks", kernel=None, left_out="kernels are tuned on a GPU")
        return
    for kernel in KERNELS:
        if limit.left() < RESERVE:
            raise RuntimeError(f"stopped at the limit before {kernel}")
        ops.tune(
            "cuda",
            only=kernel,
            shapes=(SHAPE,),
            told=lambda tuned: rows.add("blocks", **tuned._asdict(), gain=tuned.usual_seconds / tuned.seconds),
        )
