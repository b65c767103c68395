"""Stage 3: tests/gpu on the card, and each kernel once under compute-sanitizer, where that is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tools.gpu_check.kernels import ROOT, run_tests
from tools.gpu_check.rows import Rows
from tools.gpu_check.stage import Limit

SANITIZED = 45.0
"""Seconds of the limit that the sanitizer may take."""
LAUNCHES = """
import torch
from tools.gpu_check.cases import cases
for case in cases(tiny=True):
    case.make("cuda")()
torch.cuda.synchronize()
"""


def run(rows: Rows, limit: Limit, rehearse: bool) -> None:
    """Writes what :func:`tools.gpu_check.kernels.run_tests` does of these tests, and what the sanitizer said.

    Raises:
        RuntimeError: where no test ran, or not all did.
    """
    program = None if rehearse else shutil.which("compute-sanitizer")
    watched = None
    if program is not None:
        command = [program, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", LAUNCHES]
        watched = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        # A few of each file: all of them are rehearsed in the suite.
        some = ["-k", "grad-cam or saliency or weights or threads"] if rehearse else []
        run_tests(rows, limit, ["tests/gpu", *some], rehearse, {"FASTSAL_REHEARSE": "1"} if rehearse else None)
    finally:
        if watched is None:
            rows.add("sanitizer", found=None)
        else:
            try:
                said, _ = watched.communicate(timeout=max(1.0, min(SANITIZED, limit.left())))
                rows.add("sanitizer", found=program, status=watched.returncode, said=said[-1500:])
                if watched.returncode == 9:
                    rows.add("error", of="compute-sanitizer", error=said[-500:])
            except subprocess.TimeoutExpired:
                watched.kill()
                rows.add("sanitizer", found=program, status=None, said="stopped at its limit")
