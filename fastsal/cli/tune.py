"""``fastsal tune``: the fastest blocks of each kernel on this machine's GPU."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import torch

from fastsal import ops
from fastsal._version import __version__
from fastsal.cli.console import Console
from fastsal.cli.errors import Refused


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measures, prints and saves."""

    def told(tuned: ops.Tuned) -> None:
        gain = tuned.usual_seconds / tuned.seconds
        console.line(
            f"{tuned.kernel:<20} 2^{tuned.bucket:<3} {1e6 * tuned.usual_seconds:9.1f} us shipped "
            f"{1e6 * tuned.seconds:9.1f} us best  {gain:5.2f}x  {tuned.blocks}"
        )

    try:
        found = ops.tune(arguments.device, only=arguments.only, told=told)
    except RuntimeError as error:
        raise Refused(f"tune: {error}") from error
    if not found:
        raise Refused(f"tune: no kernel's name contains {arguments.only!r}")
    major, minor = torch.cuda.get_device_capability(arguments.device)
    where = ops.save_tuning(found, f"sm_{major}{minor}", Path(arguments.out) if arguments.out else None)
    console.line(f"written to {where}")
    console.document(
        {
            "fastsal": __version__,
            "device": torch.cuda.get_device_name(arguments.device),
            "torch": torch.__version__,
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "file": str(where),
            "found": [tuned._asdict() for tuned in found],
        }
    )
    return 0
