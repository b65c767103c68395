"""Benchmark rows as tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def ops(rows: list[Row]) -> str:
    """Milliseconds of each implementation, and how far the bytes alone are."""
    columns = ("op", "way", "ms (median)", "bytes that must move", "floor ms", "share of copy bandwidth")
    return table(
        columns,
        [
            (
                f"{row['group']} {row['case']}".strip(),
                row["way"],
                f"{1e3 * row['seconds']:.3f}",
                f"{row['floor_bytes']:,}",
                f"{1e3 * row['floor_seconds']:.3f}",
                f"{row['floor_seconds'] / row['seconds']:.2f}",
            )
            for row in rows
        ],
    )


def launches(rows: list[Row]) -> str:
    """Microseconds of the host for a warm call on four elements."""
    return table(
        ("op", "us of a warm call", "above an empty one"),
        [
            (row["op"], f"{1e6 * row['host_seconds']:.1f}", f"{1e6 * (row['host_seconds'] - row['empty_seconds']):.1f}")
            for row in rows
        ],
    )


def explainers(rows: list[Row]) -> str:
    """Seconds beside those of the bare model passes, both measured in turn."""
    columns = (
        "explainer",
        "passes",
        "s",
        "bare passes, s",
        "ratio (median of pairs)",
        "least to most",
        "ratio of the fastest",
        "of peak memory",
    )
    return table(
        columns,
        [
            (
                row["group"],
                row["passes"],
                f"{row['seconds']:.3f}",
                f"{row['floor_seconds']:.3f}",
                f"{row['ratio']:.3f}",
                f"{row['ratio_least']:.3f} to {row['ratio_most']:.3f}",
                f"{row['ratio_of_best']:.3f}",
                f"{row['ratio_of_peak_bytes']:.3f}" if "ratio_of_peak_bytes" in row else "",
            )
            for row in rows
        ],
    )


def peers(rows: list[Row]) -> str:
    """Explainers beside Captum's: how many times faster, and over the bare passes."""
    columns = (
        "explainer, model",
        "s",
        "Captum, s",
        "Captum at its best, s (per eval)",
        "times faster",
        "than its best",
        "over bare passes: median, fastest",
        "peak MB",
        "Captum's, at its best",
    )
    cells = []
    for row in rows:
        best = row["peer_best_size"] is not None
        cells.append(
            (
                f"{row['group']}, {row['model']}",
                f"{row['seconds']:.3f}",
                f"{row['peer_seconds']:.3f}",
                f"{row['peer_best_seconds']:.3f} ({row['peer_best_size']})" if best else "",
                f"{row['speedup']:.2f}",
                f"{row['speedup_over_best']:.2f}" if best else "",
                f"{row['over_floor']:.3f}, {row['over_floor_of_fastest']:.3f}",
                f"{row['peak_bytes'] / 1e6:.1f}",
                f"{row['peer_peak_bytes'] / 1e6:.1f}" + (f", {row['peer_best_peak_bytes'] / 1e6:.1f}" if best else ""),
            )
        )
    return table(columns, cells)


def ways(rows: list[Row]) -> str:
    """Ways to the same end, each against the first."""
    cells = []
    for row in rows:
        for index, way in enumerate(row["ways"]):
            cells.append(
                (
                    f"{row['group']}: {row['case']}" if index == 0 else "",
                    way["way"],
                    f"{way['seconds']:.3f} ({way['least']:.3f} to {way['most']:.3f})",
                    f"{way['ratio']:.3f} ({way['ratio_least']:.3f} to {way['ratio_most']:.3f})",
                    f"{way['peak_bytes'] / 1e6:.1f}" if "peak_bytes" in way else "",
                )
            )
    return table(("what", "way", "s (least to most)", "by the first (least to most)", "peak MB"), cells)


def summary(rows: list[Row], chosen: Mapping[str, Sequence[str]]) -> str:
    """One line for each chosen comparison "group: case", with those of its ways that begin as told."""
    cells = []
    for what, beginnings in chosen.items():
        for row in rows:
            if f"{row['group']}: {row['case']}" == what:
                first, *others = row["ways"]
                shown = [
                    way for way in others if way["way"].startswith(tuple(beginnings)) and "prepared" not in way["way"]
                ]
                ratios = [
                    f"{way['way']}: {way['ratio']:.3f} ({way['ratio_least']:.3f} to {way['ratio_most']:.3f})"
                    for way in shown
                ]
                cells.append((what, f"{first['way']}: {first['seconds']:.3f}", "; ".join(ratios)))
    return table(("what", "first way, s", "other ways, by the first (least to most)"), cells)


def scaling(rows: list[Row]) -> str:
    """Time and memory along an axis, and the exponents of their growth over it."""
    cells = []
    for row in rows:
        points = row["points"]
        cells.append(
            (
                row["group"],
                ", ".join(f"{point['at']:,}: {point['seconds']:.3f}" for point in points),
                f"{exponent(points, 'seconds'):.2f}",
                ", ".join(f"{point['at']:,}: {point['peak_bytes'] / 1e6:.1f}" for point in points),
                f"{exponent(points, 'peak_bytes'):.2f}",
            )
        )
    return table(("cost, axis", "s", "exponent", "peak MB", "exponent"), cells)


def exponent(points: list[Row], what: str) -> float:
    """The power of the axis with which a cost grows between the first and the last point; 1 is linear."""
    first, last = points[0], points[-1]
    return math.log(last[what] / first[what]) / math.log(last["at"] / first["at"])


KINDS = {
    "comparisons": ("Prepared models and peers", ways),
    "explainers": ("Explainers against their bare model passes", explainers),
    "peers": ("Explainers against Captum, plain models", peers),
    "scaling": ("Cost along an axis", scaling),
    "ops": ("Ops against their bytes", ops),
    "launches": ("Host cost of a call", launches),
}
"""Kind of row: heading, table."""
