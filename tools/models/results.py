"""Cells as JSON lines, one file for each package of architectures; of several lines of one cell the last one counts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from tools.models.cell import Cell

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "timm", "transformers", "captum")
Key = tuple[str, str]


def versions() -> dict[str, str]:
    """Of the packages that a cell depends on; a cell of other versions is run again."""
    return {name: version(name).partition("+")[0] for name in PACKAGES}


def catalogued() -> list[str]:
    """The architectures that there are, as they were found last; none where they were not looked for."""
    kept = FOLDER / "catalogue.json"
    return list(json.loads(kept.read_text())["names"]) if kept.exists() else []


def commit() -> str:
    """The last change of the library, with a plus where the tree has others; "" outside of a clone."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    last = [*git, "log", "-1", "--format=%h", "--abbrev=9", "--", "fastsal"]
    found = subprocess.run(last, capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "fastsal"], capture_output=True, text=True, check=False)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def read(folder: Path) -> dict[Key, Cell]:
    """The cells by (architecture, method)."""
    found: dict[Key, Cell] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            cell = Cell(**json.loads(line))
            found[cell.model, cell.method] = cell
    return found


def file_of(folder: Path, model: str) -> Path:
    """Where the cells of an architecture stand."""
    return folder / f"{model.partition(':')[0]}.jsonl"


def append(folder: Path, cell: Cell) -> None:
    """Adds a line."""
    folder.mkdir(parents=True, exist_ok=True)
    with file_of(folder, cell.model).open("a") as file:
        file.write(json.dumps(cell.record()) + "\n")


def compact(folder: Path, methods: Iterable[str]) -> None:
    """One line for each cell, by architecture and in the order of the methods."""
    order = {method: index for index, method in enumerate(methods)}
    cells = read(folder)
    for file in folder.glob("*.jsonl"):
        kept = [cell for cell in cells.values() if file_of(folder, cell.model) == file and cell.method in order]
        kept.sort(key=lambda cell: (cell.model, order[cell.method]))
        file.write_text("".join(json.dumps(cell.record()) + "\n" for cell in kept))
