"""The last lines that a check prints: 60 at most, what fits a screen of results."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

LINES = 60


def table(stages: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Stages, bandwidths, the first errors, and each op's microseconds and share of a copy by number of rows."""
    lines = [f"{'stage':10} {'status':9} {'seconds':>7} {'rows':>5} {'errors':>6}"]
    lines += [
        f"{each['stage']:10} {each['status']:9} {each['seconds']:7.1f} {each['rows']:5} {each['errors']:6}"
        for each in stages
    ]
    for row in rows:
        if row["kind"] in ("copy", "fill"):
            lines.append(f"{row['kind']}: {row['per_second'] / 1e12:.3f} TB/s")
        elif row["kind"] == "product":
            lines.append(f"product {row['dtype']}: {row['per_second'] / 1e12:.1f} TFLOP/s")
    errors = [row for row in rows if row["kind"] == "error"]
    lines += [f"error in {row['stage']}, {row['of']}: {row['error']}"[:150] for row in errors[:8]]
    return "\n".join((lines + _ops(rows))[:LINES])


def _ops(rows: list[dict[str, Any]]) -> list[str]:
    by_case: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "op" and not row["variant"]:
            # Rows tell apart the cases of a sweep, layers those of cam.map.
            name = row["case"] if row["op"] == "cam.map" else ""
            share = f"{row['rows']}: {1e6 * row['seconds']:.1f} ({row['of_copy']:.2f})"
            by_case[(row["op"], name, row["dtype"], row["layout"])].append(share)
    lines = [f"{' '.join(filter(None, key)):45} {', '.join(found)}" for key, found in by_case.items()]
    return ["rows: microseconds (share of a copy's bytes per second)", *lines] if lines else []
