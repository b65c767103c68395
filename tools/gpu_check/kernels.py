"""Stage 2: the kernels' tests of tests/ops on the card, counted as they come."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from tools.gpu_check.rows import Rows
from tools.gpu_check.stage import Limit

ROOT = Path(__file__).resolve().parents[2]
RESERVE = 3.0
"""Seconds of the limit that are left to write down what was found."""
FAILED = ("FAILED", "ERROR")
OUTCOME = re.compile(
    r"(?:\[gw\d+\] \[ *\d+%\] (?P<first>PASSED|FAILED|SKIPPED|ERROR) )?"
    r"(?P<test>tests/\S+::.*?)(?: (?P<last>PASSED|FAILED|SKIPPED|ERROR)\b.*)?"
)
REASON = re.compile(r"(?:FAILED|ERROR) (?P<test>tests/\S+::.*?) - (?P<reason>.*)")
"""Of pytest's summary."""


def run(rows: Rows, limit: Limit, rehearse: bool) -> None:
    """Writes a row for each test that failed, and one with the counts.

    Raises:
        RuntimeError: where no test ran, or not all did.
    """
    # One op is enough to rehearse: the interpreter is slow.
    run_tests(rows, limit, ["tests/ops/test_ranks.py" if rehearse else "tests/ops", "-k", "kernel"], rehearse)


def run_tests(
    rows: Rows, limit: Limit, chosen: list[str], rehearse: bool, environment: dict[str, str] | None = None
) -> None:
    """The same of any tests: ``chosen`` are arguments of pytest."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--benchmark-disable", *chosen]
    if not rehearse and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    # The errors of pytest's own workers go to the log: a pipe that they hold would outlast a process that is killed.
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.kill()

    timer = threading.Timer(max(limit.left() - RESERVE, 0), stop)
    timer.start()
    counts: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for line in process.stdout:
        print(line, end="")
        if found := REASON.match(line.strip()):
            reasons[found["test"]] = found["reason"]
        elif told := outcome(line):
            test, result = told
            counts[result.lower()] += 1
            if result in FAILED:
                rows.add("error", of=test, error=result.lower())
    timer.cancel()
    status = process.wait()
    rows.add("tests", stopped=stopped.is_set(), **counts, **({"reasons": reasons} if reasons else {}))
    if stopped.is_set():
        raise RuntimeError(f"stopped at the limit after {counts.total()} tests")
    if status not in (0, 1) or not counts:
        raise RuntimeError(f"pytest ended with status {status}: its last words are in the log")


def outcome(line: str) -> tuple[str, str] | None:
    """A test and what became of it, of a line of ``pytest -v``, with pytest-xdist or without."""
    found = OUTCOME.fullmatch(line.strip())
    result = found and (found["first"] or found["last"])
    return (found["test"], result) if found and result else None
