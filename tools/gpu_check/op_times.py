"""Stage 4: seconds of each op on the device, against a copy and a fill in the same process, and those of the host.

Sizes are those of explainers: one image of 3 x 224 x 224, altered 32, 64 and 256 times; layers of usual networks.
"""

from __future__ import annotations

import contextlib
import traceback
from typing import Any

import torch

from benchmarks.measure import host_seconds
from fastsal.ops import device_seconds
from tools.gpu_check.cases import Case, cases
from tools.gpu_check.facts import bandwidths
from tools.gpu_check.rows import Rows, describe
from tools.gpu_check.stage import Limit

RESERVE = 4.0
"""Seconds that one case may take."""


def run(rows: Rows, limit: Limit, rehearse: bool) -> None:
    """Writes a row for each case, those that matter most first; one that fails is a row with its error.

    Raises:
        RuntimeError: where the limit left cases out, or the device no longer answers.
    """
    device = "cpu" if rehearse else "cuda"
    copied, filled = bandwidths(device, 2**16 if rehearse else 2**28)
    speeds = {"copy": copied["per_second"], "fill": filled["per_second"]}
    rows.add("bandwidth", **speeds)
    chosen = list(cases(rehearse))
    for index, case in enumerate(chosen):
        if limit.left() < RESERVE:
            raise RuntimeError(f"stopped at the limit before {case.op} {case.name}: {len(chosen) - index} cases left")
        try:
            rows.add("op", **_measured(case, device, speeds, 3 if rehearse else 15))
        except Exception as error:
            traceback.print_exc()
            rows.add("error", of=f"{case.op} {case.name} {case.variant}".strip(), error=describe(error))
            if not rehearse:
                torch.cuda.synchronize()  # raises where the error has broken the context: no later figure would hold


def _measured(case: Case, device: str, speeds: dict[str, float], groups: int) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        for enter in case.under:
            stack.enter_context(enter())
        work = case.make(device)
        found = device_seconds(work, groups)
        host = host_seconds(work, calls=20, groups=3) if case.host else None
    return {
        "op": case.op,
        "case": case.name,
        "variant": case.variant,
        "dtype": str(case.dtype).removeprefix("torch."),
        "layout": case.layout,
        "rows": case.rows,
        **found._asdict(),
        "host_seconds": host,
        "floor_bytes": case.floor_bytes,
        "per_second": case.floor_bytes / found.seconds,
        **{f"of_{name}": case.floor_bytes / found.seconds / speed for name, speed in speeds.items()},
    }
