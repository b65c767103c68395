"""Runs the stages within a budget.

python -m tools.gpu_check --out DIR [--budget 540] [--stages facts,ops] [--rehearse]

A stage that fails, hangs or kills its process leaves its rows and one of kind "error", and the next stage runs. Two
calls fit a card that is at hand for ten minutes each: ``--budget 330 --stages facts,kernels,tests,ops``, and the rest.
``DIR/summary.json`` is written anew after each stage; ``DIR/STAGE.log`` has what the stage printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tools.gpu_check.rows import FILE, Rows, about, read
from tools.gpu_check.table import table

ROOT = Path(__file__).resolve().parents[2]
GRACE = 5.0
"""Seconds that a stage has to end by itself after its limit."""
LEAST = 5.0
"""A stage that would have less is not begun."""


class Stage(NamedTuple):
    """A stage: the module whose ``run(rows, limit, rehearse)`` it is, and the seconds that it may take."""

    module: str
    seconds: float


STAGES = {
    "facts": Stage("tools.gpu_check.facts", 30),
    "kernels": Stage("tools.gpu_check.kernels", 90),
    "tests": Stage("tools.gpu_check.on_device", 100),
    "ops": Stage("tools.gpu_check.op_times", 110),
    "models": Stage("tools.gpu_check.model_floor", 100),
    "explainers": Stage("tools.gpu_check.explainers", 150),
    "blocks": Stage("tools.gpu_check.blocks", 120),
}


def check(folder: Path, stages: dict[str, Stage], budget: float, rehearse: bool = False) -> list[dict[str, Any]]:
    """Run stages one after another.

    Args:
        folder: where rows, summary and logs go; an earlier run's rows there stay.
        stages: by name.
        budget: seconds for all.
        rehearse: on the CPU with tiny sizes.

    Returns:
        For each stage its name, status ("passed", "failed" or "left out"), seconds, and number of rows and errors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    found: list[dict[str, Any]] = []
    for name, stage in stages.items():
        before, started = len(read(folder)), time.monotonic()
        limit = min(stage.seconds, budget - (started - began) - GRACE)
        rows = Rows(folder, name, rehearse)
        if limit < LEAST:
            rows.add("error", of="stage", error=f"left out: the budget of {budget:g} s is spent")
            status = "left out"
        else:
            ended = _run(folder, name, stage, limit, rehearse)
            # A stage that raised has written its error, unless it did not come so far.
            wrote = any(row["kind"] == "error" for row in read(folder)[before:])
            if ended and not (wrote and ended.startswith("ended with status 1:")):
                rows.add("error", of="process", error=ended)
            status = ""
        added = read(folder)[before:]
        errors = sum(row["kind"] == "error" for row in added)
        found.append(
            {
                "stage": name,
                "status": status or ("failed" if errors else "passed"),
                "seconds": round(time.monotonic() - started, 1),
                "rows": len(added) - errors,
                "errors": errors,
            }
        )
        summary = {"budget": budget, "rehearsed": rehearse, "stages": found, **about()}
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return found


def _run(folder: Path, name: str, stage: Stage, limit: float, rehearse: bool) -> str:
    """Run a stage's process; how it ended, where that was not well."""
    command = [sys.executable, "-m", "tools.gpu_check.stage", stage.module, name]
    command += ["--out", str(folder.resolve()), "--limit", str(limit), *(["--rehearse"] if rehearse else [])]
    paths = [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    log = folder / f"{name}.log"
    with log.open("w") as file:
        # A session of its own, so that its children end with it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(limit + GRACE)
        except subprocess.TimeoutExpired:
            return f"ended after {limit + GRACE:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"ended with status {status}: {_last_line(log)}" if status else ""


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it printed nothing"


def main() -> int:
    """Entry point; 0 when every stage passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder for the rows, the summary and the logs")
    parser.add_argument("--budget", type=float, default=540, help="seconds for all stages")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"some of {','.join(STAGES)}")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny sizes")
    options = parser.parse_args()
    names = options.stages.split(",")
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        parser.error(f"--stages: {','.join(unknown)}; there are {','.join(STAGES)}")
    before = len(read(options.out))
    found = check(options.out, {name: STAGES[name] for name in names}, options.budget, options.rehearse)
    print(table(found, read(options.out)[before:]))
    print(f"rows in {options.out / FILE}")
    return 0 if all(entry["status"] == "passed" for entry in found) else 1


if __name__ == "__main__":
    sys.exit(main())
