"""What docs/models.md says of the cells, counted; a test holds the page to it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from tools.models.cell import NONE, OK, REFUSED, Cell

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
    """Cells of one method."""

    ok: int
    refused: int
    bad: int
    meant: int


def count(cells: Iterable[Cell], method: str) -> Count:
    """Of the method's cells that have a meaning: ok, refused, everything else, all."""
    statuses = [cell.status for cell in cells if cell.method == method and cell.status != NONE]
    ok, refused = statuses.count(OK), statuses.count(REFUSED)
    return Count(ok, refused, len(statuses) - ok - refused, len(statuses))


def bad(cells: Iterable[Cell]) -> list[Cell]:
    """Cells that are not ok, not refused and have a meaning, or left the model changed."""
    return [c for c in cells if c.changed or c.status not in (OK, REFUSED, NONE)]


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
