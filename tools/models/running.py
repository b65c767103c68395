"""Runs cells, a process for each architecture, and keeps what became of each."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tools.models.cell import ERROR, MEMORY, OK, TIMEOUT, Cell
from tools.models.claims import BUILDING
from tools.models.results import append, commit, versions


class Limits(NamedTuple):
    """Of a cell.

    Attributes:
        seconds: of processor time; the clock may show ten times that, and five minutes for building.
        gigabytes: of memory.
    """

    seconds: float = 60
    gigabytes: float = 6


class Worker:
    """A process that forks one for each architecture (:mod:`tools.models.worker`)."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.models.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def close(self) -> None:
        """Ends it; its children end with their cells."""
        self._process.kill()
        self._process.wait()

    def cells(
        self, name: str, methods: list[str], limits: Limits, keep: Callable[[Cell], None]
    ) -> tuple[str, str] | None:
        """Runs these cells in one fork: None where it came to its end, else the cell at which it stopped and how.

        Raises:
            RuntimeError: where the worker itself has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"name": name, "methods": methods, **limits._asdict()}) + "\n")
        self._process.stdin.flush()
        current, child, late = BUILDING, 0, False
        while True:
            try:
                line = self._lines.get(timeout=10 * limits.seconds + 300)
            except queue.Empty:
                late = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                continue
            if line is None:
                raise RuntimeError("the worker of the cells ended")
            said = _said(line)
            child, current = said.get("pid", child), said.get("begin", current)
            if "built" in said:
                keep(Cell(name, BUILDING, OK, said["built"], seconds=said["seconds"]))
            if "cell" in said:
                keep(Cell(**said["cell"]))
            if "ended" in said:
                if said["ended"] == 0:
                    return None
                return current, TIMEOUT if late else MEMORY if said["ended"] == -signal.SIGKILL else ERROR


def _said(line: str) -> dict[str, Any]:
    """A line of the worker; nothing for what a package printed."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def run_model(
    worker: Worker, name: str, methods: list[str], limits: Limits, folder: Path, tell: Callable[[Cell], None]
) -> None:
    """Runs these cells of one architecture. One that kills its process, or hangs, is recorded so; the rest go on."""
    waiting, packages, at = list(methods), versions(), commit()

    def keep(cell: Cell) -> None:
        cell.versions, cell.commit = packages, at
        append(folder, cell)
        tell(cell)

    while waiting:
        ended = worker.cells(name, waiting, limits, keep)
        if ended is None:
            return
        method, status = ended
        keep(Cell(name, method, status, "its process ended" if status != TIMEOUT else "over its time by the clock"))
        if method == BUILDING:
            return
        waiting = waiting[waiting.index(method) + 1 :]
