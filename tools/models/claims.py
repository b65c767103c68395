"""What docs/models.md says of the cells, counted; a test holds the page to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tools.models.cell import ERROR, MEMORY, NONE, OK, REFUSED, TIMEOUT, WRONG, Cell

LEAST_OK = 0.97
"""Of the cells of a method that have a meaning."""
MOST_REFUSED_FOR_GEOMETRY = 3
LEAST_GRIDS = 60
HELD = (
    "saliency", "integrated-gradients", "occlusion", "rise", "grad-cam", "layer-cam", "eigen-cam", "prepare", "compile",
)  # fmt: skip
"""Methods that are to be ok nearly everywhere."""
CAMS = ("grad-cam", "layer-cam", "eigen-cam", "ablation-cam")
BUILDING = "build"
LAYER = re.compile(r"^(?P<layer>\S+), grid (?P<grid>[\dx]+)(?P<other>, not the last stage's)? \((?P<source>[^)]*)\)")


class Count(NamedTuple):
    """Cells of one method that have a meaning; ``ended`` by their limit of time or memory."""

    ok: int
    refused: int
    wrong: int
    ended: int
    meant: int


def count(cells: Iterable[Cell], method: str) -> Count:
    """Of one method."""
    counts = Counter(cell.status for cell in cells if cell.method == method and cell.status != NONE)
    return Count(
        counts[OK], counts[REFUSED], counts[WRONG] + counts[ERROR], counts[TIMEOUT] + counts[MEMORY], counts.total()
    )


def bad(cells: Iterable[Cell]) -> list[Cell]:
    """Cells with another value or an error that is no refusal, and those that left the model changed."""
    return [c for c in cells if c.changed or (c.method != BUILDING and c.status in (WRONG, ERROR))]


def excluded(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Cells without a meaning, by the reason."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.status == NONE:
            found.setdefault(cell.detail, []).append(cell)
    return found


def refused_for_geometry(cells: Iterable[Cell]) -> list[Cell]:
    """Grad-CAM's refusals of a default layer."""
    return [c for c in cells if c.method == "grad-cam" and c.status == REFUSED and "layer" in c.detail]


def same_grids(cells: Iterable[Cell]) -> list[str]:
    """Transformers and hybrids whose default layer has the grid that their own patch sizes or strides say."""
    cells = list(cells)
    attentive = {c.model for c in cells if c.method == "le-grad" and c.status == OK}
    found = []
    for cell in cells:
        read = LAYER.match(cell.detail) if cell.method == "grad-cam" and cell.status == OK else None
        if read is not None and not read["other"] and (cell.model in attentive or read["source"] != "convolutions"):
            found.append(cell.model)
    return found
