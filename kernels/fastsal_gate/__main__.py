"""The kernel gate: what can be known of every kernel without a GPU.

Runs the kernels in Triton's interpreter against the float64 reference (tests/ops), compiles each of their real
signatures for four architectures, and prints registers, spills, the widest global store, shared memory and seconds.
Fails on a wrong value, on a spill, and on a batch writer whose aligned case has no 128-bit store.

    python -m fastsal_gate [--compile-only] [--architectures 80,90] [--only TEXT] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from fastsal_gate import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]


def interpret() -> int:
    """Run the ops' kernel tests in the interpreter; the exit status."""
    environment = dict(os.environ, TRITON_INTERPRET="1", PYTHONPATH=f"{ROOT}:{ROOT / 'kernels'}")
    command = [sys.executable, "-m", "pytest", "-q", "tests/ops", "-k", "kernel", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    """Entry point; 0 when every kernel passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--compile-only", action="store_true", help="leave the interpreter's tests out")
    parser.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)))
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the table here too")
    options = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)  # Triton reads it when it is imported
    import torch

    from fastsal_gate.resources import run

    torch.set_num_threads(1)  # a fork cannot use the threads that its parent has started
    began = time.perf_counter()
    results = run([int(arch) for arch in options.architectures.split(",")], options.only, options.workers)
    failed = [row for row in results if row["failures"]]
    elapsed = time.perf_counter() - began
    print(f"{len(results)} compilations in {elapsed:.0f} s, {len(failed)} failed")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    status = 0 if options.compile_only else interpret()
    return 1 if failed or status else 0


if __name__ == "__main__":
    sys.exit(main())
