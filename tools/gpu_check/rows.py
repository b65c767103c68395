"""Rows of results: JSON, one a line, on the disk as soon as they are known."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

FILE = "results.jsonl"


@cache
def about() -> dict[str, Any]:
    """Device, versions and date, which every row has."""
    try:
        return machine()
    except Exception as error:  # a driver that does not answer is a result, too
        return {"device": None, "machine_error": describe(error)}


def describe(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip()[:500]}"


class Rows:
    """Appends a stage's rows to the file in a folder.

    Args:
        folder: that of ``--out``; it exists.
        stage: the stage's name.
        rehearsed: whether the figures are those of a rehearsal.
    """

    def __init__(self, folder: Path, stage: str, rehearsed: bool = False) -> None:
        self._file = folder / FILE
        self._stage = stage
        self._rehearsed = rehearsed

    def add(self, kind: str, **facts: Any) -> None:
        """Write a row.

        Args:
            kind: what the row is: "error" of what failed, else the stage's own word.
            facts: what JSON can hold.
        """
        row = {"stage": self._stage, "kind": kind, **facts, "rehearsed": self._rehearsed, **about()}
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder; a last line that was cut off is left out."""
    rows = []
    file = folder / FILE
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
